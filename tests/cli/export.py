"""Runs a model that `smoothcnn export` wrote on the images of a case, and prints how far its output is from what is expected.

    export.py onnx FILE CASE.json
"""

import json
import sys

try:
    import numpy as np

    kind, path, case = sys.argv[1:]
    if kind == "onnx":
        import onnx
        import onnxruntime
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit()

with open(case) as file:
    case = json.load(file)
images = np.array(case["images"], dtype=np.float32).reshape(case["shape"])
expected = np.array(case["expected"]).reshape(len(images), -1)

onnx.checker.check_model(path, full_check=True)
model = onnx.load(path)
classes = json.loads({entry.key: entry.value for entry in model.metadata_props}["classes"])
assert len(classes) == expected.shape[1], classes
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
assert [i.name for i in session.get_inputs()] == ["pixels"]


def answer(batch):
    return session.run(None, {"pixels": batch})[0]


# As one batch, and one by one: the batch has any size.
found = answer(images)
alone = np.concatenate([answer(image[None]) for image in images])
print(max(abs(found - expected).max(), abs(alone - expected).max()))
