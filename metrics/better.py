"""Which end of each measure is the better one: for the W&B summary, the report and comparisons. It imports nothing."""

HIGHER, LOWER = "higher", "lower"

# By the measure's name; a measure of one feature network or one factor (``fid_scenes``) is answered by its beginning.
BETTER = {
    "psnr": HIGHER,
    "ssim": HIGHER,
    "l1": LOWER,
    "mse": LOWER,
    "pixel_accuracy": HIGHER,
    "fid": LOWER,
    "kid": LOWER,
    "is": HIGHER,
    "precision": HIGHER,
    "recall": HIGHER,
    "density": HIGHER,
    "coverage": HIGHER,
    "lpips": HIGHER,  # here always between outputs of one input, so variety
    "diversity": HIGHER,
    "domain": HIGHER,
    "semantic_iou": HIGHER,
    "semantic_accuracy": HIGHER,
    "content_r2": HIGHER,
    "style_r2": HIGHER,
    "cycle_l1": LOWER,
    "cycle_psnr": HIGHER,
    "identity_l1": LOWER,
    "identity_psnr": HIGHER,
    "ppl": LOWER,
    "path_length": LOWER,
    "leak_domain": LOWER,
    "leak_style": LOWER,
    "leak_content": LOWER,
    "domain_probe": LOWER,
    "interpolation_smoothness": HIGHER,
    "interpolation_monotonicity": HIGHER,
    "accuracy": HIGHER,
    "knn_accuracy": HIGHER,
    "svm_accuracy": HIGHER,
    "reciprocity": LOWER,
    "swap_accuracy": HIGHER,
    "swap_leakage": LOWER,
    "disentanglement": HIGHER,
    "dependence": LOWER,
    "distortion": LOWER,
    "elbo": HIGHER,
    "reconstruction_mse": LOWER,
    "reconstruction_psnr": HIGHER,
    "codebook": HIGHER,
    "nll": LOWER,
    "bits_per_code": LOWER,
    "separability": LOWER,
    "attribute_agreement": HIGHER,
    "attribute_truth": HIGHER,
    "embedding_distance": LOWER,
    "direction_gives": HIGHER,
    "direction_takes": HIGHER,
    "direction_keeps": HIGHER,
    "arithmetic": HIGHER,
}


def better_end(measure: str) -> str:
    """``higher`` or ``lower``; ``""`` for a measure that has no better end, or that is not known.

    Args:
        measure: without stage and row, such as ``fid_scenes`` of ``val/fid_scenes/day2night``.
    """
    while measure:
        if measure in BETTER:
            return BETTER[measure]
        measure = measure.rpartition("_")[0]
    return ""
