"""The DICOM standard as dicom-validator wants it, without network.

dicom-validator reads the standard's DocBook files, which it downloads when it is first used. The package dicom-standard
carries the same tables (PS3.3 and PS3.6 of 2020) as JSON; this puts them into dicom-validator's form. Conditions and
enumerated values are parsed by dicom-validator itself.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from dicom_validator.spec_reader.condition import ConditionType
from dicom_validator.spec_reader.condition_parser import ConditionParser
from dicom_validator.spec_reader.enum_parser import EnumParser
from dicom_validator.validator.dicom_info import DicomInfo
from lxml import etree, html

Table = list[dict[str, Any]]
Attributes = dict[str, dict[str, Any]]  # tag -> name, type and perhaps cond, enums and items (again Attributes)


@lru_cache
def standard_of(sop_class: str) -> DicomInfo:
    """What dicom-validator has to know to judge objects of one SOP class (its UID)."""
    dictionary = {a["tag"]: {"name": a["name"], "vr": a["valueRepresentation"]} for a in _table("attributes")}
    ciod = next(sop["ciod"] for sop in _table("sops") if sop["id"] == sop_class)
    ciod_id = next(row["id"] for row in _table("ciods") if row["name"] == ciod)
    names = {row["id"]: row["name"] for row in _table("modules")}
    parser = ConditionParser(dictionary)
    modules = {
        names[row["moduleId"]]: {"ref": row["moduleId"], "use": row["usage"], **_condition(parser, row)}
        for row in _table("ciod_to_modules")
        if row["ciodId"] == ciod_id
    }
    reader = _AttributeReader(dictionary, parser)
    tables = {module["ref"]: reader.module(module["ref"]) for module in modules.values()}
    return DicomInfo(dictionary, {sop_class: {"title": ciod, "modules": modules, "group_macros": {}}}, tables)


@lru_cache
def _table(name: str) -> Any:
    distribution = importlib.metadata.distribution("dicom-standard")
    (path,) = [path for path in distribution.files or [] if path.name == f"{name}.json"]
    return json.loads(path.locate().read_text(encoding="utf8"))


def _condition(parser: ConditionParser, row: dict[str, Any]) -> dict[str, Any]:
    """When a conditional module has to be there, as far as it can be told from the object alone."""
    if row["usage"] != "C":
        return {}
    return {"cond": parser.parse(row["conditionalStatement"]).result_dict()}


class _AttributeReader:
    """Puts flat rows with paths (``module:tag:tag``) into nested tables."""

    def __init__(self, dictionary: dict[str, dict[str, str]], parser: ConditionParser) -> None:
        self.dictionary = dictionary
        self.parser = parser
        self.enum_parser = EnumParser(self._section, parser)
        self.rows: Table = _table("module_to_attributes")
        self.sections = {
            address.rpartition("#sect_")[2]: text
            for address, text in _table("references").items()
            if "#sect_" in address
        }

    def module(self, ref: str) -> Attributes:
        rows = [row for row in self.rows if row["moduleId"] == ref and row["tag"] in self.dictionary]
        return self._level(rows, f"{ref}:")

    def _level(self, rows: Iterable[dict[str, Any]], prefix: str) -> Attributes:
        inside = [row for row in rows if row["path"].startswith(prefix)]
        result: Attributes = {}
        for row in inside:
            if ":" in row["path"][len(prefix) :]:
                continue
            result[row["tag"]] = self._attribute(row)
            if items := self._level(inside, f"{row['path']}:"):
                result[row["tag"]]["items"] = items
        return result

    def _attribute(self, row: dict[str, Any]) -> dict[str, Any]:
        cell = html.fragment_fromstring(row["description"].replace("<td", "<div").replace("</td>", "</div>"))
        known = self.dictionary[row["tag"]]
        attribute = {"name": known["name"], "type": row["type"]}
        if row["type"] in ("1C", "2C", "3"):
            condition = self.parser.parse(" ".join(cell.text_content().split()))
            if condition.type != ConditionType.UserDefined:
                attribute["cond"] = condition.result_dict()
        links = [link["sourceUrl"].rpartition("#")[2] for link in row["externalReferences"]]
        enums = self.enum_parser.parse(_docbook(cell, links), known["vr"])
        if enums := [enum for enum in enums if enum.get("tag", row["tag"]) == row["tag"]]:
            attribute["enums"] = enums
        return attribute

    def _section(self, label: str) -> etree._Element | None:
        text = self.sections.get(label)
        return None if text is None else _docbook(html.fragment_fromstring(text), [])


def _docbook(cell: html.HtmlElement, links: list[str]) -> etree._Element:
    """The lists of values and the links of a cell, as EnumParser looks for them."""
    node = etree.Element(f"{EnumParser.docbook_ns}td")
    for terms in cell.findall("div/dl"):
        values = etree.SubElement(node, f"{EnumParser.docbook_ns}variablelist")
        title = terms.getprevious()
        etree.SubElement(values, f"{EnumParser.docbook_ns}title").text = (
            "" if title is None else " ".join(title.text_content().split())
        )
        for term in terms.iter("dt"):
            entry = etree.SubElement(values, f"{EnumParser.docbook_ns}varlistentry")
            etree.SubElement(entry, f"{EnumParser.docbook_ns}term").text = term.text_content().strip()
    para = etree.SubElement(node, f"{EnumParser.docbook_ns}para")
    for link in links:
        etree.SubElement(para, f"{EnumParser.docbook_ns}xref", linkend=link)
    return node
