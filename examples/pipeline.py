"""Predict from a table of images and numbers: python examples/pipeline.py table.csv --image path --target cheap

One column of the CSV has the images' paths, from the CSV's folder; columns of numbers are used beside the codes; the target is a
column of classes. The search chooses the time-steps whose subsets are used, and the classifier's penalty.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

import ditifeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="a CSV")
    parser.add_argument("--image", default="path", help="the column of the images' paths")
    parser.add_argument("--target", required=True, help="the column to predict")
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--n-jobs", type=int, help="processes; each loads the network once")
    arguments = parser.parse_args()
    table = pandas.read_csv(arguments.table)
    table[arguments.image] = [str(arguments.table.parent / path) for path in table[arguments.image]]
    target = table.pop(arguments.target)
    numbers = list(table.select_dtypes("number"))

    featurizer = ditifeat.DiTiFeaturizer(arguments.model, crop="center", flip_average=True)
    columns = ColumnTransformer([("image", featurizer, [arguments.image]), ("numbers", StandardScaler(), numbers)])
    ranges = [None, *ditifeat.load_encoder(arguments.model).partition.ranges[-2:]]
    grid = {"columns__image__time_steps": ranges, "classifier__C": [0.1, 1.0, 10.0]}
    train, test, labels, truth = train_test_split(table, target, stratify=target, random_state=0)
    # Nothing is learnt by the featurizer; `memory` keeps the codes of each training fold for all penalties.
    with TemporaryDirectory() as memory:
        pipeline = Pipeline([("columns", columns), ("classifier", LogisticRegression(max_iter=1000))], memory=memory)
        search = GridSearchCV(pipeline, grid, cv=arguments.folds, n_jobs=arguments.n_jobs).fit(train, labels)
        score = search.score(test, truth)
    print(f"{len(table)} rows, images and {', '.join(numbers) or 'no numbers'}; best: {search.best_params_}")
    print(f"accuracy {score:.3f} on {len(test)} rows that nothing was chosen on")


if __name__ == "__main__":
    main()
