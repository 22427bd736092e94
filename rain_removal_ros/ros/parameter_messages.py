"""Parameters as rclpy's services have them: descriptors, and answers to values that rclpy raises for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    ParameterType,
    SetParametersResult,
)
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.node import Node

from rain_removal_ros.errors import shown
from rain_removal_ros.ros.parameters import Changes, Parameter


def descriptor(parameter: Parameter) -> ParameterDescriptor:
    """What `ros2 param describe` tells of a parameter."""
    described = ParameterDescriptor(
        description=parameter.description,
        additional_constraints=parameter.allowed,
        read_only=parameter.changes is Changes.NEVER,
    )
    if parameter.minimum is not None and parameter.type_name == "int":
        described.integer_range = [IntegerRange(from_value=parameter.minimum, to_value=parameter.maximum)]
    elif parameter.minimum is not None:
        bounds = FloatingPointRange(from_value=parameter.minimum, to_value=parameter.maximum)
        described.floating_point_range = [bounds]
    return described


def answer_what_raises(node: Node) -> None:
    """Have set_parameters answer a value of a type that ROS does not know, for which rclpy raises."""
    services = {service.srv_type: service for service in node.services}
    for srv_type in (SetParameters, SetParametersAtomically):
        service = services.get(srv_type)
        if service is not None:
            service.callback = _refusing(service.callback)


def _refusing(callback: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def answer(request: Any, response: Any) -> Any:
        known = range(ParameterType.PARAMETER_STRING_ARRAY + 1)
        wrong = next((p for p in request.parameters if p.value.type not in known), None)
        if wrong is None:
            return callback(request, response)
        reason = (
            f"parameter {shown(wrong.name)} has a value of type {wrong.value.type}, which ROS does not know"
        )
        result = SetParametersResult(successful=False, reason=reason)
        if isinstance(response, SetParameters.Response):
            response.results = [result] * len(request.parameters)
        else:
            response.result = result
        return response

    return answer
