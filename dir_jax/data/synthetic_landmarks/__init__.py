"""The synthetic landmarks: small 3-D models, painted and photographed by NumPy and Pillow alone.

In the order in which a picture is made: `geometry` (meshes, cameras), `paint` and `ornaments`
(textures), `parts`, `sacred`, `secular`, `town`, `towers`, `bridges` and `monuments` (what the
landmarks are), `families` (their list), `raster` (a camera's view of a mesh), `light`,
`surroundings` and `passers_by` (what else is in the picture), `photograph` (one view, developed),
`grading` (the Oxford-style ground truth), `contact_sheet` (an overview).
"""
