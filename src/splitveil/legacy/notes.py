"""Notes on what the published code does otherwise than it says, one line each, shown with the settings."""

RATE = "epoch 1 of the published code trains with learning rate 0; here the rate rises over epoch 1"
CHOICE = "the published code chooses the epoch on the test images; here on a held-out part of the training set"
STANDARD_DEVIATION = "regularization_strength is the standard deviation of the noise (its README calls it a variance)"
NO_LAMBDA = "lambd is not given: CEM is off (the published parser's default is 1)"
NO_NOISE = "λ > 0 without regularization_strength crashes the published code in epoch 2; here it trains"
NO_FLOOR = (
    "regularization_strength {0:g} without Gaussian in --regularization adds no noise, but in the published code the "
    "clusters below τ·{0:g}² are left alone; here none are (τσ² = 0)"
)
DP_FLOOR = (
    "the published λ leaves the clusters below τ·{0:g}² alone, whatever noise local_dp adds; so it is here: threshold "
    "is that variance divided by the variance of all noise"
)
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
CLIPPED = (
    "the published Laplace noise, of scale 1/ε, takes a sensitivity of 1 for granted; here z is clipped to [0, 1], so "
    "that ε holds (`--reading code` for the published noise)"
)
DP_GAUSSIAN = (
    "the published noise at ε {0:g} has σ = √(2 ln(1.25/δ))/ε = {1:.4g} with δ = 1e-4 and takes a sensitivity of 1 "
    "for granted; here z is clipped to [0, 1] and σ = {2:.4g} is the least with which ε and δ = 1e-5 hold "
    "(`--reading code` for the published noise)"
)
DP_RELEASED = (
    "local_dp is the published noise, {0} without clipping: its ε holds where z is in [0, 1], and the Gaussian one's "
    "up to ε 1 only (σ = √(2 ln(1.25/δ))/ε, δ = 1e-4)"
)
PRUNED = "after pruning, 9 of 14 encoder tensors are not in the published optimizer; here it is rebuilt"
PRUNED_AT = "{0} says epoch {1}, and the published parser reads {2}{3}"
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
RES_NORM = (
    "the published {0} has residual blocks in place of a first and second doubling that this wire does not need; here "
    "neither"
)
CONV_NORM = "the published {0} has dropout and a batch norm before its sigmoid; here neither"
PROXY_NOISE = "adversarial_noise has its size from the strength; steps and threshold do not apply to it"
STEPS = "{0} says {1} per batch, and the published parser reads {2}{3}"
DEFAULTS = "not given, so as in run_exp.sh (in brackets the published parser's default): {0}"
UNREAD = "given, and read beside these options neither here nor in the published code: {0}"
GIVEN = "AT_regularization_strength is not given: {0:g}, as in run_exp.sh (the parser's 0 switches it off)"
OFF = "a strength of 0 switches {0} off"
ONLY_GAUSSIAN = "of --regularization {0} the published code reads only Gaussian"
OLDER = "--regularization {0} is taken as ResSFL's scripts mean it; the CEM code would ignore it"
NO_EFFECT = "the CEM code reads --regularization for Gaussian only: {0} has no effect"
CLUSTERS = "without sgm in its name, {0} gets 15 clusters per class instead of 5"
FRESH = "--{0} is not carried over: the training starts from fresh weights"
FOLDERS = "--filename and --folder are not carried over: --out of the training says where it goes"
SCHEME = "--scheme {0} says when devices synchronize and which files are written: here one device, one kind of files"
SOURCE = "--transfer_source_task has no effect: nothing in the published code reads it"
ONE_DEVICE = "--{0} has no effect with one device"
MORE_CHECKPOINTS = "--save_more_checkpoints keeps epochs 30 and 90 too; here the best and the last are kept"
IGNORED = "the published code reads {0} as {1}, and so it is here: '{2}' counts beside {3} only"
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

# Of the attack, main_test_MIA.py
CUSTOM = (
    "the published attack builds its decoder custom{0} for a wire as large as the image and fails on a smaller one; "
    "here it is built for the wire"
)
QUARTER = (
    "the published attack builds {0} for a wire of a quarter of the image's side and fails on another, as this one; "
    "here it is built for the wire"
)
OTHER_RUN = "--{0} of the attack is {1}, of the training {2}: here the attack takes the run as it was trained"
QUIET = "the published attack is not told the training's --regularization {0} and sees no noise; here it sees it"
NOT_BEST = "without --test_best the published attack takes the files of epoch 80; here the best epoch"
AVERAGE = "--average_time {0} has no effect: nothing in the published code reads it; here: splitveil attack --seed"
TARGET = "--target_client {0} has no effect with one device"
LATER = (
    "--attack_from_later_layer {0} has no effect: the published attack sees the wire of the cut, as here; a later "
    "--cutlayer of the training sends a later layer"
)
CONFIDENCE = (
    "--attack_confidence_score does not reach the published attack, which sees the wire; here an attack on the logits, "
    "with its own decoder (`--reading code`: on the wire)"
)
CONFIDENCE_OF_CODE = "--attack_confidence_score does not reach the published attack, which sees the wire, as here"
MODEL_FREE = (
    "--attack_scheme MIA_mf ends in an error in the published code, which gives 3 scores where 6 are read; here rmle "
    "without priors, from a gray image"
)
TRUNCATED = "--attack_scheme {0} has no effect: the published attack sees the whole wire, as here"
LOSS = "--attack_loss_type {0}: the decoder here learns by MSE"
SGD = "--MIA_optimizer SGD: the decoder here learns by Adam, with its own rate (--MIA_lr is left out)"
AWARE = "--noise_aware is read for --regularization only in the published code; here every attacker sees the defense"
MEASURE = "--measure_option prints the sizes of the network; here summary.json of a run has them"
LOG_FOLDER = "--new_log_folder says where the log goes; here each attack has a folder of its own"
NO_READER = "--{0} has no effect: the published attack does not hand it on"
STRANGER = (
    "line {0} attacks {1}, which the script does not train: import its folder with splitveil legacy FOLDER --out RUN, "
    "then splitveil attack RUN --attack {2}"
)
