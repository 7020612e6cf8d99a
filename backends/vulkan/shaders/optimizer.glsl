// What optimizers share.  Every result is `precise`: no multiply-add is fused, as on the CPU.

// What the gradient is multiplied with, by the norm of all gradients; 1 when that is NaN.
float clip_factor(float norm)
{
    float clip = step_.max_grad_norm / (norm + 1e-6);
    return step_.max_grad_norm > 0.0 && clip < 1.0 ? clip : 1.0;
}
