"""Encode a column of images in Spark by a `pandas_udf`: the model is loaded once per Python worker.

`encode_series` is a plain function of pandas Series, which can be used and tested without Spark.

Example:
    spark-submit examples/spark_features.py --images hdfs:///photos/*.jpg --out hdfs:///features.parquet
"""

from __future__ import annotations

import argparse
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from ditifeat.encoding.ray import ImagesToFeatures

SCHEMA = "features array<float>, error string"


@cache
def load(model: str | None) -> ImagesToFeatures:
    """The encoder of this worker."""
    from ditifeat.encoding.ray import ImagesToFeatures

    return ImagesToFeatures(model)


def encode_series(images: pd.Series, model: str | None = None) -> pd.DataFrame:
    """Features and error of each image.

    Args:
        images: bytes of files, or paths that the worker sees.
        model: as `ditifeat.load_encoder` takes it.

    Returns:
        One row per image, in their order: `features`, a list of floats, None where there is an error; and `error`.
    """
    found = load(model)({"image": images.to_numpy(dtype=object)})
    features = [
        None if error else row for row, error in zip(found["features"].astype(np.float32), found["error"], strict=True)
    ]
    return pd.DataFrame(
        {"features": features, "error": [error or None for error in found["error"]]}, index=images.index
    )


def main() -> None:
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import pandas_udf

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="as Spark's binaryFile reader takes them")
    parser.add_argument("--out", required=True, help="Parquet to write: path, features, error")
    parser.add_argument("--model", help="bundled name, or a folder that all workers see")
    arguments = parser.parse_args()
    spark = SparkSession.builder.appName("ditifeat").getOrCreate()
    encode = pandas_udf(lambda images: encode_series(images, arguments.model), SCHEMA)
    files = spark.read.format("binaryFile").load(arguments.images)
    found = files.select("path", encode("content").alias("found")).select("path", "found.features", "found.error")
    found.write.parquet(arguments.out)


if __name__ == "__main__":
    main()
