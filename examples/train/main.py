"""A small regression, trained by stochastic gradient descent with the rate and the seed that it is given."""

import argparse
import json
import math
import operator
import os
import random
from pathlib import Path

POINTS = 200
TRUE_WEIGHTS = (1.5, -2.0, 0.5)


def points(random_numbers):
    """Random inputs, and what the true weights make of them, with some noise."""
    for _ in range(POINTS):
        inputs = (1.0, random_numbers.uniform(-1, 1), random_numbers.uniform(-1, 1))
        target = predict(TRUE_WEIGHTS, inputs)
        yield inputs, target + random_numbers.gauss(0, 0.1)


def predict(weights, inputs):
    return sum(map(operator.mul, weights, inputs))


def mean_loss(weights, data):
    errors = [predict(weights, inputs) - target for inputs, target in data]
    return sum(error * error for error in errors) / len(data)


def train(data, learning_rate, epochs):
    weights = [0.0, 0.0, 0.0]
    for epoch in range(1, epochs + 1):
        for inputs, target in data:
            error = predict(weights, inputs) - target
            for index, value in enumerate(inputs):
                weights[index] -= learning_rate * error * value
        loss = mean_loss(weights, data)
        print(f"epoch {epoch:3d}  loss {loss:.5f}")
        if not math.isfinite(loss):
            raise SystemExit(f"the learning rate {learning_rate} is too large: the loss is {loss}")
    return weights


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of the random points")
    options = parser.parse_args()
    epochs = int(os.environ.get("EPOCHS", "10"))

    data = list(points(random.Random(options.seed)))
    weights = train(data, options.lr, epochs)
    result = {"lr": options.lr, "seed": options.seed, "epochs": epochs, "loss": mean_loss(weights, data)}
    with Path("result.json").open("w", encoding="utf-8") as file:
        json.dump({**result, "weights": weights}, file, indent=2)
    print(f"loss {result['loss']:.5f} (result.json)")


if __name__ == "__main__":
    main()
