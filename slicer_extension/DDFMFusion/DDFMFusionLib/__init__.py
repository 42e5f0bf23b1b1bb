"""What the DDFM fusion module does, apart from its panel.

`geometry`, `guess`, `nrrd`, `command`, `process` and `job` are plain Python with numpy; `choices` adds translated
labels; `dependencies` and `scene` work with the application.
"""
