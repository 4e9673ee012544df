// Activations of the hidden layers, by number: the one list that C++ and Python agree on.
#pragma once

namespace rk {

enum class Activation : int {
    identity,
    relu,
    leaky_relu,
    relu_power,
    gelu,
    gelu_tanh,
    silu,
    tanh,
    sigmoid,
    softplus,
    erf,
    sin,
    cos
};

}  // namespace rk
