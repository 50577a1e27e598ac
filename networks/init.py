"""Initialisations that papers prescribe for a whole network."""

from torch import nn


def kaiming_(net: nn.Module) -> None:
    """He initialisation of every convolution and linear layer, biases zero (UNIT, MUNIT: all generators)."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def normal_(net: nn.Module, std: float = 0.02) -> None:
    """N(0, std^2) for every convolution and linear layer, biases zero (DCGAN; UNIT, MUNIT: discriminators)."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def normal_convolutions_(net: nn.Module, std: float = 0.02) -> None:
    """N(0, std^2) for the weights of every convolution, transposed or not; all else keeps PyTorch's (DRIT)."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, std)


def glorot_(net: nn.Module) -> None:
    """Glorot's uniform weights for every convolution and linear layer, biases zero (TensorFlow's layers)."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def he_uniform_(net: nn.Module) -> None:
    """He's uniform weights for every convolution and linear layer; biases keep PyTorch's (disvae)."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
