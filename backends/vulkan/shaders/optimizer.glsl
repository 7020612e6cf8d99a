// What optimizers share.  Every result is `precise`: no multiply-add is fused, as on the CPU.

// A step whose gradient has no finite norm changes nothing.
bool is_taken(float norm)
{
    return (floatBitsToUint(norm) & 0x7fffffff) < 0x7f800000;
}

// What the gradient is multiplied with, by the norm of all gradients.
float clip_factor(float norm)
{
    float clip = step_.max_grad_norm / (norm + 1e-6);
    return step_.max_grad_norm > 0.0 && clip < 1.0 ? clip : 1.0;
}
