"""``slicer.parameterNodeWrapper``: typed attributes of a class live in a vtkMRMLScriptedModuleNode."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["module"]

PROPERTY = "SlicerParameterName"


@dataclass
class WithinRange:
    """Annotation of a number: the value is refused outside of it."""

    minimum: float
    maximum: float


class _Parameter:
    """A property whose value is text in the node, or a reference to another node."""

    def __init__(self, name: str, annotated: Any, default: Any) -> None:
        self.name = name
        self.range: WithinRange | None = None
        self.type = annotated
        if typing.get_origin(annotated) is typing.Annotated:
            self.type, self.range = typing.get_args(annotated)
        self.is_node = self.type.__name__.startswith("vtkMRML")
        self.default = default

    def __get__(self, owner: Any, cls: Any = None) -> Any:
        if owner is None:
            return self
        if self.is_node:
            return owner.parameterNode.GetNodeReference(self.name)
        if owner.parameterNode.GetParameter(self.name) == "" and self.type is not str:
            return self.default
        text = owner.parameterNode.GetParameter(self.name)
        if issubclass(self.type, enum.Enum):
            return self.type[text]
        return text == "True" if self.type is bool else self.type(text)

    def __set__(self, owner: Any, value: Any) -> None:
        if self.is_node:
            owner.parameterNode.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            return
        if not isinstance(value, (int, float) if self.type is float else self.type):
            raise TypeError(f"{self.name}: {value!r} is no {self.type.__name__}")
        if self.range is not None and not self.range.minimum <= value <= self.range.maximum:
            raise ValueError(f"{self.name}: {value} is not within {self.range}")
        owner.parameterNode.SetParameter(self.name, value.name if isinstance(value, enum.Enum) else str(value))


class _Binding:
    """A widget that shows a parameter and changes it."""

    def __init__(self, owner: Any, parameter: _Parameter, widget: Any) -> None:
        self.owner, self.parameter, self.widget = owner, parameter, widget
        self.read, self.write, self.changed = _connector(parameter, widget)
        self.write(parameter.__get__(owner))
        self.changed.connect(self.to_parameter)

    def to_parameter(self, *_: Any) -> None:
        if not self.owner._updating_gui:
            self.parameter.__set__(self.owner, self.read())

    def to_widget(self) -> None:
        self.write(self.parameter.__get__(self.owner))

    def disconnect(self) -> None:
        self.changed.disconnect(self.to_parameter)


def _connector(parameter: _Parameter, widget: Any) -> tuple[Callable[[], Any], Callable[[Any], None], Any]:
    """How to read and write a widget, and its signal; only the pairs of widget and type that Slicer knows."""
    kind = type(widget).__name__
    if kind == "qMRMLNodeComboBox" and parameter.is_node:
        widget.nodeTypes = [parameter.type.__name__]
        return widget.currentNode, widget.setCurrentNode, widget.currentNodeChanged
    if kind == "QComboBox" and issubclass(parameter.type, enum.Enum):
        choices = list(parameter.type)
        widget.clear()
        for choice in choices:
            widget.addItem(choice.label())
        return (
            lambda: choices[widget.currentIndex],
            lambda value: setattr(widget, "currentIndex", choices.index(value)),
            widget.currentIndexChanged,
        )
    simple = {
        ("QCheckBox", bool): ("checked", "stateChanged"),
        ("QSpinBox", int): ("value", "valueChanged"),
        ("QDoubleSpinBox", float): ("value", "valueChanged"),
        ("ctkSliderWidget", float): ("value", "valueChanged"),
        ("QLineEdit", str): ("text", "textChanged"),
    }
    if (kind, parameter.type) not in simple:
        raise RuntimeError(f"no connector from {kind} to {parameter.type} ({parameter.name})")
    attribute, signal = simple[kind, parameter.type]
    if parameter.range is not None:
        widget.minimum, widget.maximum = parameter.range.minimum, parameter.range.maximum
    return lambda: getattr(widget, attribute), lambda value: setattr(widget, attribute, value), getattr(widget, signal)


def parameterNodeWrapper(cls: type) -> type:
    """Class decorator: each annotated name becomes a parameter."""
    parameters = {
        name: _Parameter(name, annotated, getattr(cls, name, None))
        for name, annotated in typing.get_type_hints(cls, include_extras=True).items()
    }
    for name, parameter in parameters.items():
        setattr(cls, name, parameter)

    def __init__(self: Any, parameterNode: Any) -> None:
        self.parameterNode = parameterNode
        self._bindings: dict[int, tuple[list[_Binding], int]] = {}
        self._updating_gui = False
        for parameter in parameters.values():
            if not parameter.is_node and parameter.default and not parameterNode.GetParameter(parameter.name):
                parameter.__set__(self, parameter.default)

    def connectGui(self: Any, ui: Any) -> None:
        """Without the tag, as a version of Slicer has it."""
        widgets = {widget.property(PROPERTY): widget for widget in vars(ui).values() if widget.property(PROPERTY)}
        connectParametersToGui(self, widgets)

    def connectParametersToGui(self: Any, mapping: dict[str, Any]) -> int:
        bindings = [_Binding(self, parameters[name], widget) for name, widget in mapping.items()]
        tag = self.parameterNode.AddObserver("ModifiedEvent", lambda *_: update(self, bindings))
        self._bindings[tag] = (bindings, tag)
        return tag

    def update(self: Any, bindings: list[_Binding]) -> None:
        if self._updating_gui:
            return
        self._updating_gui = True
        try:
            for binding in bindings:
                binding.to_widget()
        finally:
            self._updating_gui = False

    def disconnectGui(self: Any, tag: int) -> None:
        bindings, observer = self._bindings.pop(tag)
        self.parameterNode.RemoveObserver(observer)
        for binding in bindings:
            binding.disconnect()

    cls.__init__, cls.connectGui, cls.disconnectGui = __init__, connectGui, disconnectGui
    cls.connectParametersToGui = connectParametersToGui
    cls.allParameters = parameters
    return cls


def module() -> types.ModuleType:
    result = types.ModuleType("slicer.parameterNodeWrapper")
    result.parameterNodeWrapper = parameterNodeWrapper
    result.WithinRange = WithinRange
    return result
