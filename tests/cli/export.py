"""Runs models that `smoothcnn export` wrote on the images of their cases, and prints how far the output of each is from
what is expected.

    export.py onnx|pytorch CASES.json

A case: "path" of a model (ONNX: a file, PyTorch: a folder), "images" of a "shape", what is "expected", and whether that
is the "softmax".
"""

import importlib.util
import json
import sys

kind, cases = sys.argv[1:]
try:
    import numpy as np

    if kind == "onnx":
        import onnx
        import onnxruntime
    else:
        import safetensors.torch
        import torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit()


def onnx_answer(path, classes, softmax):
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    named = json.loads({entry.key: entry.value for entry in model.metadata_props}["classes"])
    assert len(named) == classes, named
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["pixels"]
    return lambda batch: session.run(None, {"pixels": batch})[0]


def pytorch_answer(path, classes, softmax):
    spec = importlib.util.spec_from_file_location("model", f"{path}/model.py")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    assert len(model.CLASSES) == classes, model.CLASSES
    net = model.load()
    answer = net.probabilities if softmax else net
    # A model that is trained further keeps its weights under the same names.
    # PyTorch adds a counter to each batch norm, of a file without them too.
    names = {name for name in net.state_dict() if not name.endswith(".num_batches_tracked")}
    assert names == set(safetensors.torch.load_file(f"{path}/model.safetensors"))

    def of(batch):
        with torch.no_grad():
            return answer(torch.from_numpy(batch)).numpy()

    return of


with open(cases) as file:
    cases = json.load(file)
for case in cases:
    images = np.array(case["images"], dtype=np.float32).reshape(case["shape"])
    expected = np.array(case["expected"]).reshape(len(images), -1)
    open_model = onnx_answer if kind == "onnx" else pytorch_answer
    answer = open_model(case["path"], expected.shape[1], case["softmax"])
    # As one batch, and one by one: the batch has any size.
    found = answer(images)
    alone = np.concatenate([answer(image[None]) for image in images])
    print(max(abs(found - expected).max(), abs(alone - expected).max()))
