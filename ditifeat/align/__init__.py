"""Faces in photos: found, and turned and scaled to where CelebA's aligned images have them."""

from ditifeat.align.aligner import Align, AlignedFace, Aligner, model_aligner
from ditifeat.align.detector import Face, find_faces
from ditifeat.align.folder import Aligned, align_faces

__all__ = ["Align", "Aligned", "AlignedFace", "Aligner", "Face", "align_faces", "find_faces", "model_aligner"]
