"""A small case of every kernel in every arithmetic, through CuPy; run under compute-sanitizer.

Memory is allocated directly by the driver, so that an access past an array is an access past an allocation.
"""

import cupy
import ml_dtypes
import numpy as np
import relkernels as rk
from relkernels import cuda

cupy.cuda.set_allocator(None)
rng = np.random.default_rng(0)


def array(*shape, dtype):
    return cupy.asarray(rng.standard_normal(shape).astype(dtype))


def run(dtype, precision=None):
    wide = np.float64 if dtype == np.float64 else np.float32
    phi = rk.MLP.random([6, 40, 9], "gelu", dtype=wide, random_state=0)
    unit = rk.MLP.random([6, 40, 9], dtype=wide, random_state=0, normalize=True)
    deep = rk.MLP.random([6, 1500, 9], "relu", dtype=wide, random_state=0)
    options = {"phi": phi, "precision": precision}
    for n, m in [(70, 131), (1, 33), (17, 1)]:
        x, y, v = array(n, 6, dtype=dtype), array(m, 6, dtype=dtype), array(m, 7, dtype=dtype)
        mask = cupy.asarray(rng.random((n, m)) < 0.7)
        cuda.call("feature_map", {"x": x, "mlp": phi, "precision": precision})
        cuda.call("feature_map", {"x": x, "mlp": deep, "precision": precision})
        cuda.call("relation_matrix", {"x": x, "y": y, "heads": 3, **options})
        cuda.call("relation_matrix", {"x": x, "y": y, "precision": precision})
        cuda.call("relation_matrix", {"x": x, **options})
        cuda.call("attention_scores", {"q": x, "k": y, "mask": mask, **options})
        cuda.call("attention", {"q": x, "k": y, "v": v, "mask": mask, "return_lse": True, **options})
        cuda.call("attention", {"q": x, "k": y, "v": v, "causal": True, "precision": precision})
        terms = {"bias": array(1, m, dtype=dtype), "softcap": 3.0, "precision": precision}
        cuda.call("attention", {"q": x, "k": y, "v": v, "mask": mask, "return_lse": True, **terms})
        cuda.call("attention_scores", {"q": x, "k": y, **terms})
        ragged = {"q_offsets": np.array([0, n // 2, n]), "k_offsets": np.array([0, m, m])}
        cuda.call("attention", {"q": x, "k": y, "v": v, "return_lse": True, **ragged, **options})
        if precision is None:
            sides = {"q": x[None], "k": y[None], "v": v[None]}
            sides |= {"q_rel": array(3, n, 5, dtype=dtype), "k_rel": array(3, m, 5, dtype=dtype)}
            for activation in ("identity", "relu", "gelu"):
                cuda.call("relational_attention", {**sides, "rel_activation": activation, "mask": mask})
        for k in {1, m}:
            cuda.call("retrieve", {"q": x, "keys": y, "k": k, "mask": mask, **options})
        ragged = {"q_offsets": np.array([0, 0, n]), "k_offsets": np.array([0, m // 2, m])}
        cuda.call("retrieve", {"q": x, "keys": y, "k": m, "pad": True, **ragged, **options})
        for more in ({"mask": mask}, {"exclude": rng.integers(-1, m, (n, 3))}):
            cuda.call("retrieve", {"q": x, "keys": y, "k": 1, **more, **options})
            cuda.call("retrieve_above", {"q": x, "keys": y, "threshold": 0.0, **more, **options})
        for link in ("identity", "exp", "relu", "square"):
            cuda.call("relation_matvec", {"x": x, "y": y, "v": v, "link": link, **options})
            cuda.call("relation_matrix", {"x": x, "y": y, "link": link, **options})
        cuda.call("relation_matvec", {"x": x, "y": y, "v": v[:, 0], **options})
        for link in rk.ops.LINKS_OF_DISTANCE if precision is None else ():
            cuda.call("relation_matrix", {"x": x, "phi": phi, "link": link})
            for values in (v, v[:, 0]):
                cuda.call("relation_matvec", {"x": x, "y": y, "v": values, "phi": phi, "link": link})
        cuda.call("feature_map", {"x": x, "mlp": unit, "precision": precision})
        cuda.call("normalize", {"x": x})
        if precision or dtype not in (np.float32, np.float64):
            continue
        cuda.call("feature_map_vjp", {"x": x, "mlp": phi, "grad": array(n, 9, dtype=dtype)})
        cuda.call("relation_matrix_vjp", {"x": x, "y": y, "grad": array(n, m, dtype=dtype), "phi": phi})
        grad = array(n, 7, dtype=dtype)
        cuda.call("attention_vjp", {"q": x, "k": y, "v": v, "grad": grad, "mask": mask, "phi": phi})
        of_pairs = array(n, m, dtype=dtype)
        for shape in ((n, m), (1, m)):
            terms = {"bias": array(*shape, dtype=dtype), "softcap": 3.0}
            more = {"grad": grad, "grad_lse": grad[:, 0]}
            cuda.call("attention_vjp", {"q": x, "k": y, "v": v, **more, **terms})
            cuda.call("attention_scores_vjp", {"q": x, "k": y, "grad": of_pairs, **terms})
        by_head = cupy.asarray(rng.random((2, n, m)) < 0.7)
        sides |= {"q": array(2, n, 6, dtype=dtype), "k": array(2, m, 6, dtype=dtype)}
        above = {"grad_relations": array(2, n, 3, dtype=dtype), "grad_values": array(2, n, 7, dtype=dtype)}
        for activation in ("identity", "relu", "gelu"):
            how = {"rel_activation": activation, "mask": by_head}
            cuda.call("relational_attention_vjp", {**sides, **above, **how})
        for link in rk.ops.LINKS:
            cuda.call("relation_matvec_vjp", {"x": x, "y": y, "v": v, "grad": grad, "link": link})
            cuda.call("relation_matrix_vjp", {"x": x, "y": y, "grad": of_pairs, "link": link})
            of_heads = array(3, n, m, dtype=dtype)
            cuda.call("relation_matrix_vjp", {"x": x, "y": y, "grad": of_heads, "link": link, "heads": 3})
        cuda.call("attention_vjp", {"q": x, "k": y, "v": v, "grad": grad, **ragged})
        heads = array(3, n, 6, dtype=dtype)  # gradients of the keys are added over them
        cuda.call("attention_vjp", {"q": heads, "k": y, "v": v, "grad": array(3, n, 7, dtype=dtype)})
        cuda.call("feature_map_vjp", {"x": x, "mlp": unit, "grad": array(n, 9, dtype=dtype)})
        cuda.call("normalize_vjp", {"x": x, "grad": x})
    sets = array(20, 32, 6, dtype=dtype)
    cuda.call("relation_matrix", {"x": sets, **options})
    cupy.cuda.Device().synchronize()


for dtype in (np.float32, np.float64, ml_dtypes.bfloat16, np.float16):
    run(dtype)
run(np.float32, "tf32")
run(np.float32, "bf16")
print("every kernel has run")
