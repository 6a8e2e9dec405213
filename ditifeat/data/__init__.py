"""Images in and out: sources, decoding, preprocessing, labels, drawing."""
