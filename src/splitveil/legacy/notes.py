"""What the published code does otherwise than it says: one line each, shown with the settings concerned."""

RATE = "epoch 1 of the published code trains with learning rate 0; here the rate rises over epoch 1"
CHOICE = "the published code chooses the epoch on the test images; here on a held-out part of the training set"
STANDARD_DEVIATION = "regularization_strength is the standard deviation of the noise (its README calls it a variance)"
NO_LAMBDA = "lambd is not given: CEM is off (the published parser's default is 1)"
NO_NOISE = "λ > 0 without noise crashes the published code in epoch 2; here it trains"
LINEAR = "log_entropy 0, a loss linear in the variance, has no equivalent: this is the logarithmic one"
NO_BOUND = (
    "loss=released is the published code's loss: it is not the bound of Theorem 2 and weakens with more "
    "images per class; write loss=bound for the bound"
)
LOOKUP = "the published code looks clusters up by sample number, so most classes use a low class's; here each its own"
UNSEEN = "the published attack does not see {0}, as its switch reads the wrong option; here every attacker does"
TOPK = "top-k of the published code ranks the raw values of the whole batch{0}"
ZEROED = "topkprune names the part that is zeroed; ratio here is the part that is kept"
SCALE = "dropout of the published code does not rescale what it keeps; here E[z_wire] = z (`--reading code`: not)"
NORMALIZED = (
    "the published distance correlation sees normalized images, here pixels (`--reading code` for normalized=true)"
)
WEAKER = (
    "the published code weighs distance correlation with 0.1 times its strength on {0}, as here; 1 on CIFAR-10 only"
)
CLIPPED = "the published noise takes a sensitivity of 1 for granted; here z is clipped to [0, 1], so that ε holds"
PRUNED = "after pruning, 9 of 14 encoder tensors are not in the published optimizer; here it is rebuilt"
NO_EPOCH = "pruning names no epoch: 140, the published default"
SPARSE = "the strength of SCA only switches it on"
RELEASED_LCA = "the published LCA layer takes one step with atoms of any length: sparse coding in name{0}"
CONV_LCA = (
    "the published ResNet's LCA layer is lca-pytorch's with its defaults: the code of a normalized feature, 1,000 "
    "steps, atoms that never learn{0}"
)
NO_LCA = "the published code has an LCA layer behind a bottleneck of vgg11_bn_sgm and resnet20 only, so none of {0}{1}"
PROXY = "the published decoder trains on features without noise, pre-trained on the test images; here on the wire"
PRETRAIN = "30 epochs of decoder training in advance are left out (pretrain=N: N epochs of it alone)"
CONV_NORM = "the published {0} has dropout and a batch norm before its sigmoid; here neither"
PROXY_NOISE = "adversarial_noise has its size from the strength; steps and threshold do not apply to it"
STEPS = "{0} says {1} per batch, and the published parser reads {2}{3}"
GIVEN = "AT_regularization_strength is not given: {0:g}, as in run_exp.sh (the parser's 0 switches it off)"
OFF = "a strength of 0 switches {0} off"
ONLY_GAUSSIAN = "of {0} the published code reads only Gaussian"
OLDER = "--regularization {0} is taken as ResSFL's scripts mean it; the CEM code would ignore it"
NO_EFFECT = "the CEM code reads --regularization for Gaussian only: {0} has no effect"
CLUSTERS = "without sgm in its name, {0} gets 15 clusters per class instead of 5"
FRESH = "--{0} is not carried over: the training starts from fresh weights"
RESNET = "the published {0} ends its device part in a sigmoid and starts with a 5×5 convolution{1}"
BATCH_NORM = "the published {0} ends its device part in a batch norm{1}"
HEAD = "the head of the published {0} has 2,048 inputs on 64 pixels{1}"
MOBILE = (
    "the published {0} is another network: expansion and ReLU in every block, cuts that count stages, a bottleneck "
    "with ReLU{1}"
)
CHAIN = "stride {0} is a chain of convolutions of stride 2 in the published code{1}"
KERNEL = "the kernel in {0} is ignored by the published code when the stride is above 1: it is 3 here too"
MILESTONES = (
    "the published code lowers the rate at epochs 60, 120, 180, 210 and 260 of all but 120 epochs; here at "
    "1/4, 1/2, 3/4 and 7/8 of {0} epochs (`--reading code` keeps the epochs)"
)
