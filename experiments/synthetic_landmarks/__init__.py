"""Synthetic landmarks: a retrieval data set drawn from a seed, with nothing to download.

    python -m experiments.synthetic_landmarks --output runs/synthetic-landmarks

Every landmark is a small 3-D model of a building or monument with its own structure, materials and
ornaments. Each of its pictures is a photograph from another viewpoint, in different light and
weather, with different things around it. Landmarks of one kind share their colours, and every
picture has a colour cast, so that colour says little about the landmark. The folder then holds

    images/NAME.jpg       the pictures; NAME is the landmark's name, _ and the number of the view
    train.txt, test.txt   labelled lists, rows `images/NAME.jpg LANDMARK`; no landmark is in both
    gnd_synthetic.pkl     ground truth over the test landmarks, in the format of Revisited Oxford
    views.json            what is known about every picture: visibility, viewpoint, light, weather
    synthetic.json        the options and the library versions with which the set was drawn

The package needs NumPy, Pillow and tqdm only, and knows nothing of who reads these files.

Its modules, in the order in which a picture is made: `geometry` (meshes and cameras), `paint` and
`ornaments` (textures), `parts`, `sacred`, `secular`, `town`, `towers`, `bridges` and `monuments`
(what the landmarks are), `families` (the list of them), `raster` (a camera's view of a mesh),
`light`, `surroundings` and `passers_by` (what else is in the picture), `photograph` (one view,
developed), `grading` (the ground truth), `writing` (the whole set on disk), `contact_sheet` (an
overview).
"""
