"""``qt`` and ``ctk`` on PySide6 with PythonQt's manners, and the qMRML widgets.

PythonQt's manners: Qt properties are attributes (``button.enabled = False``, ``label.text``), signals are connected by
``widget.connect("clicked(bool)", slot)``, ``name`` is the object's name.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, ClassVar

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

__all__ = ["PanelLoader", "make_ctk", "make_qt", "placeholder", "qMRMLNodeComboBox", "qMRMLWidget"]


class Manners:
    """Mixed into PySide6 classes before the Qt class itself."""

    def __getattribute__(self, name: str) -> Any:
        find = super().__getattribute__
        if name.startswith("_"):
            return find(name)
        if name == "connect":
            return lambda signal, slot: find(signal.split("(")[0]).connect(slot)
        if name == "className":
            return lambda: type(self).__name__
        if name == "name":
            return find("objectName")()
        return find("property")(name) if name in _properties(find("metaObject")()) else find(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _properties(super().__getattribute__("metaObject")()):
            super().__getattribute__("setProperty")(name, value)
        else:
            super().__setattr__(name, value)


_PROGRESS_BAR = QtWidgets.QProgressBar.staticMetaObject


def _properties(meta: QtCore.QMetaObject) -> set[str]:
    known = _properties.cache.setdefault(meta.className(), set())
    if not known:
        known.update(meta.property(index).name() for index in range(meta.propertyCount()))
        # Virtual getters: Qt itself asks Python for these, and must get the method.
        known -= {"sizeHint", "minimumSizeHint", *(["text"] if meta.inherits(_PROGRESS_BAR) else [])}
    return known


_properties.cache = {}


def _with_manners(name: str) -> type:
    base = getattr(QtWidgets, name, None) or getattr(QtCore, name)
    return type(name, (Manners, base), {})


_WIDGETS = (
    *("QCheckBox", "QComboBox", "QDoubleSpinBox", "QLabel", "QLineEdit", "QPlainTextEdit", "QProgressBar"),
    *("QPushButton", "QSlider", "QSpinBox", "QTextEdit", "QToolButton"),
)
QT_CLASSES = {name: _with_manners(name) for name in [*_WIDGETS, "QTimer"]}


class ctkCollapsibleButton(Manners, QtWidgets.QWidget):
    """A titled box that a click on its title opens and closes."""

    HEADER: ClassVar[int] = 26

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._title, self._collapsed = "", False

    def _get_title(self) -> str:
        return self._title

    def _set_title(self, title: str) -> None:
        self._title = title

    def _get_collapsed(self) -> bool:
        return self._collapsed

    def _set_collapsed(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        self.setMaximumHeight(self.HEADER if collapsed else 16777215)
        for child in self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindDirectChildrenOnly):
            child.setVisible(not collapsed)

    text = QtCore.Property(str, _get_title, _set_title)
    collapsed = QtCore.Property(bool, _get_collapsed, _set_collapsed)

    def showEvent(self, event: QtGui.QShowEvent) -> None:
        if self.layout() is not None:
            self.layout().setContentsMargins(12, self.HEADER + 6, 8, 6)
        self._set_collapsed(self._collapsed)

    def mousePressEvent(self, event: QtGui.QMouseEvent) -> None:
        if event.position().y() < self.HEADER:
            self._set_collapsed(not self._collapsed)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter = QtGui.QPainter(self)
        header = QtCore.QRect(0, 0, self.width, self.HEADER)
        painter.fillRect(header, self.palette.midlight())
        mark = (
            "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}" if self._collapsed else "\N{BLACK DOWN-POINTING SMALL TRIANGLE}"
        )
        painter.drawText(header.adjusted(8, 0, 0, 0), QtCore.Qt.AlignVCenter, f"{mark}  {self._title}")


class ctkSliderWidget(Manners, QtWidgets.QWidget):
    """A slider with a number beside it."""

    STEPS: ClassVar[int] = 1000
    valueChanged = QtCore.Signal(float)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal, self)
        self._slider.setRange(0, self.STEPS)
        self._number = QtWidgets.QDoubleSpinBox(self)
        self._page = 10.0
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider)
        row.addWidget(self._number)
        self._slider.sliderMoved.connect(self._slider_moved)
        self._number.valueChanged.connect(self._number_changed)

    def _slider_moved(self, position: int) -> None:
        low, high = self._number.minimum(), self._number.maximum()
        self._number.setValue(low + position / self.STEPS * (high - low))

    def _number_changed(self, value: float) -> None:
        low, high = self._number.minimum(), self._number.maximum()
        self._slider.setValue(round((value - low) / ((high - low) or 1) * self.STEPS))
        self.valueChanged.emit(value)

    value = QtCore.Property(float, lambda self: self._number.value(), lambda self, value: self._number.setValue(value))
    minimum = QtCore.Property(
        float, lambda self: self._number.minimum(), lambda self, value: self._number.setMinimum(value)
    )
    maximum = QtCore.Property(
        float, lambda self: self._number.maximum(), lambda self, value: self._number.setMaximum(value)
    )
    singleStep = QtCore.Property(
        float, lambda self: self._number.singleStep(), lambda self, value: self._number.setSingleStep(value)
    )
    pageStep = QtCore.Property(float, lambda self: self._page, lambda self, value: setattr(self, "_page", value))
    decimals = QtCore.Property(
        int, lambda self: self._number.decimals(), lambda self, value: self._number.setDecimals(value)
    )
    suffix = QtCore.Property(str, lambda self: self._number.suffix(), lambda self, value: self._number.setSuffix(value))


class qMRMLWidget(Manners, QtWidgets.QWidget):
    """Hands its scene to all qMRML widgets inside; in Slicer the .ui file's connections do that."""

    def setMRMLScene(self, scene: Any) -> None:
        for child in self.findChildren(qMRMLNodeComboBox):
            child.setMRMLScene(scene)


class qMRMLNodeComboBox(Manners, QtWidgets.QComboBox):
    """The scene's nodes of some types, in the order of the scene."""

    currentNodeChanged = QtCore.Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._tags: list[int] = []
        self._types: list[str] = []
        self._flags = {"noneEnabled": False, "showChildNodeTypes": True}
        self._attributes: list[tuple[str, str]] = []
        self._ids: list[str | None] = []
        self._current: str | None = None
        self.currentIndexChanged.connect(self._on_index)

    def _flag(name: str) -> QtCore.Property:
        def write(self: Any, value: bool) -> None:
            self._flags[name] = value
            self._refill()

        return QtCore.Property(bool, lambda self: self._flags.get(name, False), write)

    def _set_types(self, types: list[str]) -> None:
        self._types = list(types)
        self._refill()

    nodeTypes = QtCore.Property("QStringList", lambda self: self._types, _set_types)
    noneEnabled = _flag("noneEnabled")
    showChildNodeTypes = _flag("showChildNodeTypes")
    addEnabled = _flag("addEnabled")
    removeEnabled = _flag("removeEnabled")
    renameEnabled = _flag("renameEnabled")

    def setMRMLScene(self, scene: Any) -> None:
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene = scene
        events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent) if scene is not None else ()
        self._tags = [scene.AddObserver(event, lambda *_: self._refill()) for event in events]
        self._refill()

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._current) if self._scene is not None and self._current else None

    def setCurrentNode(self, node: Any) -> None:
        self._refill()
        node_id = node.GetID() if node is not None else None
        super().setCurrentIndex(self._ids.index(node_id) if node_id in self._ids else -1)
        self._on_index()

    def addAttribute(self, node_type: str, name: str) -> None:
        """Nodes of this type must have this attribute, with any value."""
        self._attributes.append((node_type, name))
        self._refill()

    def _wanted(self, node: Any) -> bool:
        if any(node.IsA(kind) and node.GetAttribute(name) is None for kind, name in self._attributes):
            return False
        if self._flags["showChildNodeTypes"]:
            return any(node.IsA(kind) for kind in self._types)
        return node.GetClassName() in self._types

    def _refill(self) -> None:
        if self._scene is None:
            return
        nodes = [self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes())]
        nodes = [node for node in nodes if not node.GetHideFromEditors() and self._wanted(node)]
        self.blockSignals(True)
        self.clear()
        self._ids = [None, *(node.GetID() for node in nodes)]
        self.addItem("None")
        for node in nodes:
            self.addItem(node.GetName())
        super().setCurrentIndex(self._ids.index(self._current) if self._current in self._ids else 0)
        self.blockSignals(False)
        self._on_index()

    def _on_index(self, *_: int) -> None:
        index = QtWidgets.QComboBox.currentIndex(self)
        chosen = self._ids[index] if 0 <= index < len(self._ids) else None
        if chosen != self._current:
            self._current = chosen
            self.currentNodeChanged.emit(self.currentNode())


class PanelLoader(QtUiTools.QUiLoader):
    """Builds a panel from stand-ins; `unknown` lists the classes for which there is none."""

    unknown: ClassVar[list[str]] = []
    PLAIN: ClassVar[tuple[str, ...]] = ("QWidget",)

    def createWidget(self, name: str, parent: QtWidgets.QWidget | None = None, object_name: str = "") -> Any:
        classes = {**QT_CLASSES, **{cls.__name__: cls for cls in CUSTOM_WIDGETS}}
        if name in classes:
            widget = classes[name](parent)
        else:
            if name not in self.PLAIN:
                self.unknown.append(name)
            widget = QtWidgets.QWidget(parent)
        widget.setObjectName(object_name)
        return widget


CUSTOM_WIDGETS = (ctkCollapsibleButton, ctkSliderWidget, qMRMLNodeComboBox, qMRMLWidget)


class QSettings:
    """Settings of this process only."""

    values: ClassVar[dict[str, Any]] = {}

    def contains(self, key: str) -> bool:
        return key in self.values

    def value(self, key: str) -> Any:
        return self.values.get(key)

    def setValue(self, key: str, value: Any) -> None:
        self.values[key] = value


class QFileDialog:
    """Answers at once with `answer`."""

    answer: ClassVar[str] = ""

    @classmethod
    def getOpenFileName(cls, *_: Any) -> str:
        return cls.answer

    @classmethod
    def getExistingDirectory(cls, *_: Any) -> str:
        return cls.answer


def make_qt() -> types.ModuleType:
    module = types.ModuleType("qt")
    plain: dict[str, Any] = {
        "QWidget": QtWidgets.QWidget,
        "QVBoxLayout": QtWidgets.QVBoxLayout,
        "QFile": QtCore.QFile,
        "Qt": QtCore.Qt,
        "QUiLoader": PanelLoader,
        "QSettings": QSettings,
        "QFileDialog": QFileDialog,
        "QIcon": QtGui.QIcon,
        "QColor": QtGui.QColor,
        "QPixmap": QtGui.QPixmap,
        "QApplication": QtWidgets.QApplication,
    }
    for name, value in {**plain, **QT_CLASSES}.items():
        setattr(module, name, value)
    module.__getattr__ = placeholder("qt", ("Q",))
    return module


def placeholder(module: str, prefixes: tuple[str, ...]) -> Callable[[str], type]:
    """``__getattr__`` of a module: an empty class, always the same, for a name that only has to exist."""
    made: dict[str, type] = {}

    def find(name: str) -> type:
        if not name.startswith(prefixes):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return made.setdefault(name, type(name, (), {}))

    return find


def make_ctk() -> types.ModuleType:
    module = types.ModuleType("ctk")
    for cls in (ctkCollapsibleButton, ctkSliderWidget):
        setattr(module, cls.__name__, cls)
    module.__getattr__ = placeholder("ctk", ("ctk",))
    return module


def run_event_loop_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Let Qt work until ``condition`` is true."""
    loop = QtCore.QEventLoop()
    check = QtCore.QTimer()
    check.setInterval(5)
    check.timeout.connect(lambda: loop.quit() if condition() else None)
    check.start()
    QtCore.QTimer.singleShot(int(seconds * 1000), loop.quit)
    loop.exec()
    check.stop()
    assert condition(), "waited in vain"
