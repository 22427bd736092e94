"""The ROS face: parameters and lifecycle. Knows nothing of networks but how to ask for one.

Threads: the executor's stores the newest message of a camera, and answers services and timers; the
pipeline's worker computes and publishes; the pipeline's builder compiles. Lifecycle transitions run one after
another in a thread of their own, because loading a network takes seconds: rclpy would run them on the
executor's thread, and parameters and services would be dead meanwhile. `configure` succeeds when the network
is loaded; compiling it for an image size, which can take minutes, goes on afterwards, with activation allowed
(`while_building` says what frames do until then).
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy._rclpy_pybind11 import RCLError
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from rain_removal_ros import runtime
from rain_removal_ros.errors import ParameterError, RainRemovalError, bounded
from rain_removal_ros.extras import missing
from rain_removal_ros.pipeline import Build, Options, Problem
from rain_removal_ros.ros import parameters, unknown_parameters
from rain_removal_ros.ros.configured import Configured, MakeRestorer
from rain_removal_ros.ros.parameter_messages import answer_what_raises, descriptor
from rain_removal_ros.ros.parameters import PARAMETERS, Changes
from rain_removal_ros.ros.reporting import Reporter
from rain_removal_ros.ros.throttle import Throttle
from rain_removal_ros.runtime import Restorer

DIAGNOSTICS_EVERY_S = 1.0
PROGRESS_EVERY_S = 5.0
PATIENCE_S = 1.0
"""At shutdown, so long is waited for a frame under way."""
AUTOSTART_AGAIN_AFTER_S = 10.0
"""What failed as a vehicle starts, a device or a disk that is not there yet, may work a little later."""


class _Yield:
    """Awaited once, gives the executor a turn."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class DerainNode(LifecycleNodeMixin, Node):
    """The managed node `derain`.

    make_restorer: how it gets a network; tests give it others. arguments: the process's, as rclpy was given
    them, to tell where a parameter comes from.
    """

    def __init__(
        self,
        make_restorer: MakeRestorer | None = None,
        arguments: Sequence[str] = (),
        **node_options: Any,
    ):
        Node.__init__(self, "derain", **node_options)
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        self._make_restorer = make_restorer or runtime.create_restorer
        self._transition_threads = f"transition-{id(self)}"
        self._transitions = ThreadPoolExecutor(1, thread_name_prefix=self._transition_threads)
        self._run_transition = self._service_change_state.callback
        change_state: Any = self._service_change_state  # rclpy types its callback as one that is no coroutine
        change_state.callback = self._on_change_state
        self._state = "unconfigured"
        self._failure: str | None = None  # of the last transition
        self._autostart_again: float | None = None  # when, by time.perf_counter()
        self._led = False  # whether anybody called a transition
        self._configured: Configured | None = None
        self._activated: float | None = None
        self._throttle = Throttle()
        self._pipeline_options = Options()
        self._progress_told = time.perf_counter()
        self._on_broken: Callable[[], None] = lambda: None
        self._declare_parameters()
        unknown = self._unknown_parameters([*arguments, *(node_options.get("cli_args") or ())])
        for text in unknown:
            self.get_logger().warning(text)
        self._reporter = Reporter(self, unknown)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self._timer = self.create_timer(DIAGNOSTICS_EVERY_S, self._on_timer, clock=steady)

    # -- starting and ending -----------------------------------------------------------------------

    def start(
        self, on_built: Callable[[bool], None], on_broken: Callable[[], None] = lambda: None
    ) -> Future[Any]:
        """Do what `autostart` or `build_only` ask for, off the executor's thread.

        on_built: told whether everything was built, once, with `build_only`. on_broken: with
        `exit_when_broken`, called when autostart fails, or when the runtime has failed and does not come back
        by itself.
        """
        self._on_broken = on_broken
        return self._transitions.submit(self._start, on_built)

    def _start(self, on_built: Callable[[bool], None]) -> None:
        build_only, built = self._value("build_only"), False
        try:
            if build_only:
                built = self._build_all()
            elif self._value("autostart"):
                self._autostart()
        except Exception:  # nobody asks the future
            asked = "build_only" if build_only else "autostart"
            self.get_logger().error(f"{asked} failed unexpectedly\n{traceback.format_exc()}")
        if build_only:
            on_built(built)

    def close(self, timeout: float = PATIENCE_S) -> bool:
        """End threads and entities. False where a load or a compilation is still under way."""
        deadline = time.perf_counter() + timeout
        self._transitions.shutdown(wait=False, cancel_futures=True)
        for thread in threading.enumerate():
            if thread.name.startswith(self._transition_threads):
                thread.join(timeout)
                if thread.is_alive():
                    return False
        configured, self._configured = self._configured, None
        if configured is not None and not configured.end(max(0.0, deadline - time.perf_counter())):
            return False
        self.destroy_node()
        # rclpy leaves the lifecycle's services to the garbage collector: until it comes, others would see a
        # node of this name.
        self._state_machine.destroy_when_not_in_use()
        return True

    def _autostart(self) -> None:
        """Configure and activate; what fails is tried again later, unless somebody called a transition."""
        succeeded = TransitionCallbackReturn.SUCCESS
        for state, trigger in (("unconfigured", self.trigger_configure), ("inactive", self.trigger_activate)):
            if self._state == state and trigger() != succeeded:
                self._on_failed_autostart()
                return

    def _on_failed_autostart(self) -> None:
        if self._led:
            self.get_logger().error("autostart failed; a transition was called, so it is left to that")
            return
        if self._value("exit_when_broken"):
            self.get_logger().fatal(f"autostart failed, so the node ends: {self._failure}")
            self._on_broken()
            return
        self._autostart_again = time.perf_counter() + AUTOSTART_AGAIN_AFTER_S
        self.get_logger().error(
            f"autostart failed and is tried again in {AUTOSTART_AGAIN_AFTER_S:g} s, until a lifecycle "
            f"transition is called (ros2 lifecycle set {self.get_fully_qualified_name()} configure)"
        )

    def _autostart_when_due(self) -> None:
        due = self._autostart_again
        if due is not None and time.perf_counter() >= due:
            self._autostart_again = None
            self._transitions.submit(self._start, lambda _: None)

    def _build_all(self) -> bool:
        if not parameters.image_sizes(self._value("image_sizes")):
            self.get_logger().error("build_only needs image_sizes, as 1280x720,1920x1080")
            return False
        return (
            self.trigger_configure() == TransitionCallbackReturn.SUCCESS
            and self._configured is not None
            and self._configured.pipeline.wait_until_built()
        )

    # -- lifecycle ---------------------------------------------------------------------------------

    async def _on_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        """Run a transition in its thread; the executor goes on with its other work until it is done."""
        self._autostart_again, self._led = None, True
        transition = self._transitions.submit(self._run_transition, request, response)
        while not transition.done():
            try:
                transition.exception(timeout=0.005)
            except TimeoutError:
                await _Yield()
        if isinstance(transition.exception(), RCLError):  # rclpy would let it end the node
            asked = request.transition.label or request.transition.id
            self.get_logger().error(f"transition {asked} is not possible while {self._state}")
            response.success = False
            return response
        return transition.result()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the network and begin to compile for `image_sizes`. Can be repeated after a failure."""
        self._state = "configuring"
        try:
            self._configured = Configured(
                self,
                self._values(),
                self._make_restorer,
                options=lambda: self._pipeline_options,
                listener=self,
                say=lambda text: self.get_logger().info(text),
            )
        except Exception as error:
            self._state = "unconfigured"
            return self._report_failure("configure", error)
        self._state, self._failure = "inactive", None
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the topics. Can be repeated after a failure."""
        result = super().on_activate(state)
        try:
            assert self._configured is not None
            self._configured.open()
        except Exception as error:
            self._deactivate()
            super().on_deactivate(state)
            return self._report_failure("activate", error)
        self._state, self._failure, self._activated = "active", None, time.perf_counter()
        return result

    def _report_failure(self, transition: str, error: Exception) -> TransitionCallbackReturn:
        failure = f"{transition} failed: {error or type(error).__name__}"
        needed = missing(error) if isinstance(error, ModuleNotFoundError) else None
        if needed is not None:
            failure = f"{transition} needs {needed}"
        elif not isinstance(error, RainRemovalError):
            failure = f"{transition} failed: {type(error).__name__}: {error}"
            self.get_logger().error(traceback.format_exc())
        self.get_logger().error(failure)
        self._failure = failure
        return TransitionCallbackReturn.FAILURE

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the inputs and publish nothing more; the network stays loaded."""
        self._deactivate()
        self._state, self._failure = "inactive", None
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of network and topics."""
        self._release()
        self._state, self._failure = "unconfigured", None
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of everything, whatever the state."""
        self._deactivate()
        self._release()
        self._state, self._failure = "finalized", None
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a transition that raised: let go of everything, so that the node can be configured again."""
        self._deactivate()
        self._release()
        self._state = "unconfigured"
        return super().on_error(state)

    def _deactivate(self) -> None:
        self._activated = None
        if self._configured is not None:
            self._configured.close()

    def _release(self) -> None:
        configured, self._configured = self._configured, None
        if configured is not None and not configured.end(PATIENCE_S):
            self.get_logger().error(
                f"an inference or a build has not ended after {PATIENCE_S:g} s; it keeps the device's memory "
                "until it does"
            )

    # -- parameters --------------------------------------------------------------------------------

    def _declare_parameters(self) -> None:
        for parameter in PARAMETERS:
            value = self.declare_parameter(parameter.name, parameter.default, descriptor(parameter)).value
            parameters.check(parameter.name, value)
        parameters.check_together(self._values())
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.add_post_set_parameters_callback(lambda _: self._take_options())
        self._take_options()
        answer_what_raises(self)

    def _unknown_parameters(self, arguments: Sequence[str]) -> list[str]:
        given = [name for name in self._parameter_overrides if not self.has_parameter(name)]
        return unknown_parameters.notices(given, arguments, self.get_fully_qualified_name())

    def _take_options(self) -> None:
        self._pipeline_options = parameters.pipeline_options(self._values())

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _values(self) -> dict[str, Any]:
        return {parameter.name: self._value(parameter.name) for parameter in PARAMETERS}

    def _on_set_parameters(self, changed: list[RosParameter]) -> SetParametersResult:
        for parameter in changed:
            known = parameters.BY_NAME.get(parameter.name)
            if known is None:
                continue
            try:
                parameters.check(parameter.name, parameter.value)
            except ParameterError as error:
                return SetParametersResult(successful=False, reason=str(error))
            same = parameter.value == self._value(parameter.name)  # as in a file that changes another
            if known.changes is Changes.UNCONFIGURED and self._state != "unconfigured" and not same:
                reason = f"{parameter.name} can change only while unconfigured; clean up the node first"
                return SetParametersResult(successful=False, reason=reason)
        try:
            parameters.check_together({**self._values(), **{each.name: each.value for each in changed}})
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    # -- the pipeline's listener -------------------------------------------------------------------

    def on_built(self, build: Build) -> None:
        self.get_logger().info(f"built {build}")

    def on_recovered(self, restorer: Restorer, failure: str) -> None:
        info = restorer.info
        self.get_logger().warning(
            f"runtime made anew ({info.backend} {info.precision}, {info.weights} {info.weights_sha256[:12]}) "
            f"after: {bounded(failure)}"
        )

    def on_problem(self, camera: str | None, problem: Problem, error: BaseException) -> None:
        held_back = self._throttle.admit((camera, problem))
        if held_back is not None:
            more = f" (and {held_back} like it since the last message)" if held_back else ""
            what = bounded(str(error) or type(error).__name__)
            text = f"{camera or 'runtime'}: {problem.value}: {what}{more}"
            if isinstance(error, RainRemovalError):
                self.get_logger().warning(text)
            else:
                self.get_logger().error(bounded("".join(traceback.format_exception(error)), 10_000) + text)

    # -- once a second -----------------------------------------------------------------------------

    def _on_timer(self) -> None:
        configured, activated, now = self._configured, self._activated, time.perf_counter()
        self._tell_progress(configured.pipeline.building if configured is not None else None)
        if configured is not None:
            for topics in configured.topics.values():
                topics.hear_latched_info()
        self._autostart_when_due()
        active_for_s = None if activated is None else now - activated
        self._reporter.report(self._state, self._failure, active_for_s, configured, self._values())
        health = configured.pipeline.health if configured is not None else None
        if health is not None and health.broken and self._value("exit_when_broken"):
            self.get_logger().fatal(f"the runtime does not come back, so the node ends: {health.failure}")
            self._on_broken()

    def _tell_progress(self, building: Build | None) -> None:
        now = time.perf_counter()
        if building is None:
            self._progress_told = now
        elif now - self._progress_told >= PROGRESS_EVERY_S:
            self._progress_told = now
            self.get_logger().info(f"building {building}")
