"""Runs a model that `smoothcnn export` wrote on the images of a case, and prints how far its output is from what is expected.

    export.py onnx FILE CASE.json
    export.py pytorch|pytorch-softmax FOLDER CASE.json
"""

import json
import sys

kind, path, case = sys.argv[1:]
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

with open(case) as file:
    case = json.load(file)
images = np.array(case["images"], dtype=np.float32).reshape(case["shape"])
expected = np.array(case["expected"]).reshape(len(images), -1)


def onnx_answer():
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    classes = json.loads({entry.key: entry.value for entry in model.metadata_props}["classes"])
    assert len(classes) == expected.shape[1], classes
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["pixels"]
    return lambda batch: session.run(None, {"pixels": batch})[0]


def pytorch_answer():
    sys.path.insert(0, path)
    import model

    assert len(model.CLASSES) == expected.shape[1], model.CLASSES
    net = model.load()
    answer = net.probabilities if kind == "pytorch-softmax" else net
    # A model that is trained further keeps its weights under the same names.
    # PyTorch adds a counter to each batch norm, of a file without them too.
    names = {name for name in net.state_dict() if not name.endswith(".num_batches_tracked")}
    assert names == set(safetensors.torch.load_file(f"{path}/model.safetensors"))

    def of(batch):
        with torch.no_grad():
            return answer(torch.from_numpy(batch)).numpy()

    return of


answer = onnx_answer() if kind == "onnx" else pytorch_answer()
# As one batch, and one by one: the batch has any size.
found = answer(images)
alone = np.concatenate([answer(image[None]) for image in images])
print(max(abs(found - expected).max(), abs(alone - expected).max()))
