"""Training steps as a PyTorch user writes them: the whole batch at once, torch's optimisers."""

import numpy as np
import torch

from torch_reference.losses import average_precision_loss


def train_steps(
    network,
    images,
    labels,
    *,
    optimizer,
    learning_rate,
    weight_decay,
    momentum,
    num_steps,
    num_bins,
):
    """Full-batch steps of the AP loss with BatchNorm frozen and a rate falling linearly to 0.

    Args:
      network: a torch module, in float32.
      images: (N, H, W, 3) float, normalised.
      labels: (N,) int.
      optimizer: 'adam' or 'sgd'.

    Returns:
      The losses before each update, and the state dict after the last.
    """
    network.eval()  # BatchNorm's running statistics
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.requires_grad_(False)
    parameters = [p for p in network.parameters() if p.requires_grad]
    if optimizer == "adam":
        opt = torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay)
    else:
        opt = torch.optim.SGD(
            parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay
        )
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1 - step / num_steps)
    x = torch.from_numpy(np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2)))
    relevance = torch.from_numpy(np.equal.outer(labels, labels).astype("f"))
    losses = []
    for _ in range(num_steps):
        opt.zero_grad()
        descriptors = network(x)
        loss = average_precision_loss(descriptors @ descriptors.T, relevance, num_bins=num_bins)
        loss.backward()
        opt.step()
        schedule.step()
        losses.append(loss.item())
    return losses, network.state_dict()
