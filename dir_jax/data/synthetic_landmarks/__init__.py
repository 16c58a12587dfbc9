"""The synthetic landmarks: small 3-D models, painted and photographed by nothing but NumPy and Pillow.

In the order in which a picture is made: `geometry` (meshes, cameras), `paint` and `ornaments`
(textures), `parts`, `sacred`, `secular`, `towers` and `monuments` (the landmarks), `raster` (a camera's
view of a mesh), `surroundings` and `passers_by` (what else is in the picture), `photograph` (one
view, developed), `grading` (the Oxford-style ground truth).
"""
