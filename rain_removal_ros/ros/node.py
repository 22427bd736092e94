"""The ROS face: parameters, lifecycle, diagnostics. Knows nothing of networks but how to ask for one.

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
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
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
from rain_removal_ros.pipeline import Build, Health, OnFailure, Options, Pipeline, Problem
from rain_removal_ros.rain_monitor import DryThresholds
from rain_removal_ros.ros import parameters
from rain_removal_ros.ros.camera_topics import CameraTopics, InputMessage, TopicOptions
from rain_removal_ros.ros.diagnostics import (
    CameraState,
    Limits,
    RuntimeState,
    camera_status,
    runtime_status,
)
from rain_removal_ros.ros.parameter_messages import answer_what_raises, descriptor
from rain_removal_ros.ros.parameters import PARAMETERS, Changes
from rain_removal_ros.ros.status import BUILDING, RUNTIME
from rain_removal_ros.ros.throttle import Throttle
from rain_removal_ros.runtime import Output, Progress, Restorer, RuntimeSettings

MakeRestorer = Callable[[RuntimeSettings, Progress], Restorer]

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
    """The managed node `derain`. `make_restorer` is how it gets a network; tests give it others."""

    def __init__(self, make_restorer: MakeRestorer | None = None, **node_options: Any):
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
        self._pipeline: Pipeline | None = None
        self._topics: dict[str, CameraTopics] = {}
        self._activated: float | None = None
        self._throttle = Throttle()
        self._pipeline_options = Options()
        self._progress_told = time.perf_counter()
        self._on_broken: Callable[[], None] = lambda: None
        self._declare_parameters()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
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
        pipeline, self._pipeline = self._pipeline, None
        for topics in self._topics.values():
            topics.close()
        if pipeline is not None and not pipeline.close(max(0.0, deadline - time.perf_counter())):
            return False
        self.destroy_node()
        # rclpy leaves the lifecycle's services to the garbage collector: until it comes, others would see a
        # node of this name.
        self._state_machine.destroy_when_not_in_use()
        return True

    def _autostart(self) -> None:
        """Configure and activate; what fails is tried again later, unless somebody calls a transition."""
        succeeded = TransitionCallbackReturn.SUCCESS
        for state, trigger in (("unconfigured", self.trigger_configure), ("inactive", self.trigger_activate)):
            if self._state == state and trigger() != succeeded:
                self._on_failed_autostart()
                return

    def _on_failed_autostart(self) -> None:
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
            and self._pipeline is not None
            and self._pipeline.wait_until_built()
        )

    # -- lifecycle ---------------------------------------------------------------------------------

    async def _on_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        """Run a transition in its thread; the executor goes on with its other work until it is done."""
        self._autostart_again = None
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
            self._configure()
        except Exception as error:
            self._release()
            self._state = "unconfigured"
            return self._report_failure("configure", error)
        self._state, self._failure = "inactive", None
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the topics. Can be repeated after a failure."""
        result = super().on_activate(state)
        try:
            for topics in self._topics.values():
                topics.open()
        except Exception as error:
            self._deactivate()
            super().on_deactivate(state)
            return self._report_failure("activate", error)
        self._state, self._failure, self._activated = "active", None, time.perf_counter()
        return result

    def _report_failure(self, transition: str, error: Exception) -> TransitionCallbackReturn:
        self._failure = f"{transition} failed: {error or type(error).__name__}"
        needed = missing(error) if isinstance(error, ModuleNotFoundError) else None
        if needed is not None:
            self._failure = f"{transition} needs {needed}"
        elif not isinstance(error, RainRemovalError):
            self._failure = f"{transition} failed: {type(error).__name__}: {error}"
            self.get_logger().error(traceback.format_exc())
        self.get_logger().error(self._failure)
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

    def _configure(self) -> None:
        values = self._values()
        settings = parameters.runtime_settings(values)
        # every camera may want two sets of outputs, and none is to push out another's
        graphs = max(settings.graphs_in_memory, 2 * len(values["cameras"]))
        settings = replace(settings, graphs_in_memory=graphs)
        segmentation = values["segmentation"]
        from rain_removal_ros.runtime.networks import with_contents  # PyTorch is loaded only from here on

        settings = with_contents(settings, segmentation)  # what is made anew later is made of the same
        restorer = self._make_restorer(settings, self._on_load_progress)
        try:
            for name, transport in parameters.image_transports(values).items():
                options = TopicOptions(
                    image_transport=transport,
                    segmentation=segmentation,
                    queue_length=values["queue_length"],
                    jpeg_quality=values["jpeg_quality"],
                )
                self._topics[name] = CameraTopics(self, name, options, self._on_image)
        except Exception:
            restorer.close()
            raise
        info = restorer.info
        self.get_logger().info(
            f"{info.weights} ({info.weights_sha256[:12]}): {info.backend} {info.precision}, {info.device}"
        )
        if not values["weights"]:
            self.get_logger().info("the packaged weights are for research use; models/README.md says why")
        same = replace(settings, backend=info.backend, precision=info.precision)  # no other in silence
        kind = runtime.KINDS.get(info.backend)
        stand_in = (
            replace(settings, backend=kind.stand_in, precision="auto") if kind and kind.stand_in else None
        )
        self._pipeline = Pipeline(
            self._topics,
            restorer,
            self,
            options=lambda: self._pipeline_options,
            make_restorer=lambda: self._make_restorer(same, self._on_load_progress),
            make_stand_in=(lambda: self._make_restorer(stand_in, self._on_load_progress))
            if stand_in
            else None,
        )
        every_output = {Output.IMAGE, Output.INVERSE_DEPTH} | ({Output.LABELS} if segmentation else set())
        for size in parameters.image_sizes(values["image_sizes"]):
            for outputs in (every_output, {Output.IMAGE}):
                self._pipeline.build(size, frozenset(outputs))

    def _on_image(self, camera: str, message: InputMessage) -> None:
        pipeline = self._pipeline
        if pipeline is not None:
            pipeline.submit(camera, message)

    def _deactivate(self) -> None:
        self._activated = None
        for topics in self._topics.values():
            topics.close()
        if self._pipeline is not None:
            self._pipeline.clear()

    def _release(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None and not pipeline.close(PATIENCE_S):
            self.get_logger().error(
                f"an inference or a build has not ended after {PATIENCE_S:g} s; it keeps the device's memory "
                "until it does"
            )
        for topics in self._topics.values():
            topics.destroy()
        self._topics = {}

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

    def _take_options(self) -> None:
        self._pipeline_options = Options(
            serve_while_building=self._value("while_building") == "torch",
            pass_while_building=self._value("while_building") == "passthrough",
            on_failure=OnFailure(self._value("on_failure")),
            inference_timeout_s=self._value("inference_timeout_s"),
            queue_length=self._value("queue_length"),
            bypass_when_dry=self._value("bypass_when_dry"),
            dry_thresholds=DryThresholds(
                dry_below=self._value("bypass.dry_below"),
                wet_above=self._value("bypass.wet_above"),
                dry_after_s=self._value("bypass.dry_after_s"),
            ),
            batching=self._value("batching"),
        )

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

    # -- diagnostics -------------------------------------------------------------------------------

    def _on_load_progress(self, message: str) -> None:
        self.get_logger().info(message)

    def _on_timer(self) -> None:
        pipeline = self._pipeline
        building = pipeline.building if pipeline is not None else None
        now = time.perf_counter()
        if building is None:
            self._progress_told = now
        elif now - self._progress_told >= PROGRESS_EVERY_S:
            self._progress_told = now
            self.get_logger().info(f"building {building}")
        for topics in list(self._topics.values()):
            topics.hear_latched_info()
        self._autostart_when_due()
        health = pipeline.health if pipeline is not None else None
        self._publish_diagnostics(pipeline, building, health)
        if health is not None and health.broken and self._value("exit_when_broken"):
            self.get_logger().fatal(f"the runtime does not come back, so the node ends: {health.failure}")
            self._on_broken()

    def _publish_diagnostics(
        self, pipeline: Pipeline | None, building: Build | None, health: Health | None
    ) -> None:
        name = self.get_fully_qualified_name().lstrip("/")
        snapshots = pipeline.snapshot() if pipeline is not None else {}
        outputs = [
            s.seconds_since_published for s in snapshots.values() if s.seconds_since_published is not None
        ]
        state = RuntimeState(
            lifecycle=self._state,
            failed_transition=self._failure,
            info=pipeline.restorer.info if pipeline is not None else None,
            building=None if building is None or building.frames > 1 else f"{BUILDING}{building}",
            failed_builds=tuple(pipeline.failed_builds) if pipeline is not None else (),
            health=health,
            batching=tuple(pipeline.batching) if pipeline is not None else (),
            on_failure=self._pipeline_options.on_failure,
            inference_timeout_s=self._pipeline_options.inference_timeout_s,
            namesakes=self._namesakes(),
            seconds_since_output=min(outputs, default=None),
        )
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status.append(runtime_status(f"{name}: {RUNTIME}", state))
        limits = Limits(
            max_latency_s=self._value("diagnostics.max_latency_ms") * 1e-3,
            stale_after_s=self._value("diagnostics.stale_after_s"),
            max_age_s=self._value("diagnostics.max_image_age_ms") * 1e-3,
            min_rate_in_hz=self._value("diagnostics.min_rate_in_hz"),
            min_rate_out_hz=self._value("diagnostics.min_rate_out_hz"),
        )
        for camera, topics in list(self._topics.items()):
            if camera in snapshots:
                camera_state = self._camera_state(topics)
                status = camera_status(f"{name}: {camera}", snapshots[camera], camera_state, limits)
                message.status.append(status)
        self._diagnostics.publish(message)

    def _namesakes(self) -> int:
        """How many other nodes have this one's name."""
        own = (self.get_name(), self.get_namespace())
        return self.get_node_names_and_namespaces().count(own) - 1

    def _camera_state(self, topics: CameraTopics) -> CameraState:
        activated = self._activated
        return CameraState(
            active=activated is not None,
            topic=topics.input_topic,
            publishers=self.count_publishers(topics.input_topic),
            connected=topics.connected_publishers,
            wanted=topics.wanted(),
            active_for_s=None if activated is None else time.perf_counter() - activated,
            info_topic=topics.info_topic,
            info_problem=topics.info_problem,
            other_publishers=tuple(topics.other_publishers),
        )
