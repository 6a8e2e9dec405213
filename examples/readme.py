"""The README's example, whole: python examples/readme.py PHOTOS LABELS ATTRIBUTE

PHOTOS is a folder of pictures, LABELS a CSV or CelebA's list_attr_celeba.txt, ATTRIBUTE one of its columns.
"""

import sys

import ditifeat

photos, labels, attribute = sys.argv[1:4]

encoder = ditifeat.load_encoder()
features = ditifeat.encode(encoder, photos)
report = ditifeat.probe(features, labels)
print(report)
report.plot("probe.png")

first, second = (f"{photos}/{name}" for name in features.names[:2])
ditifeat.edit(encoder, first, report[attribute], scale=0.3, steps=25).save("edited.png")
ditifeat.edit(encoder, first, reference=second, subsets=range(16, 24), steps=25).save("swap.png")
