"""The frozen suites and presets of attacks, with every setting written out."""

from __future__ import annotations

from ..config import Spec


def specs(*texts: str) -> tuple[Spec, ...]:
    """Return attacks with their settings, as a command line names them."""
    return tuple(Spec.model_validate(text) for text in texts)


SUITES: dict[str, tuple[Spec, ...]] = {
    # A suite is never changed once figures have been quoted from it: a change makes a new version. Every setting is
    # written out, so that no default of an attack changes it either.
    "standard-v1": specs(
        "linear:looks=8",
        "nearest:neighbors=1,looks=16",
        "decoder:epochs=50,network=res_normN8C64,lr=0.001,weight_decay=0.0001,batch_size=256",
        "decoder:epochs=50,network=unet_normN1C32,lr=0.001,weight_decay=0.0001,batch_size=256",
        "decoder:epochs=50,network=conv_normN2C64,lr=0.001,weight_decay=0.0001,batch_size=256",
        "gan:epochs=50,warm_epochs=50,network=res_normN8C64,mse_weight=1500.0,penalty=10.0,critic_steps=10,"
        "lr=0.0001,width=64,batch_size=256,weight_decay=0.0001",
        "rmle:steps=2000,tv=null,l2=null,lr=0.01,restarts=2,start=mean,center=start,draws=4,tuning=16,epochs=50",
        "rmle:steps=1000,tv=null,l2=null,lr=0.01,restarts=1,start=decoder,center=start,draws=4,tuning=16,epochs=50",
        "latent:epochs=50,steps=1000,size=128,samples=1024,l2=0.01,lr=0.03,network=dense_normN2C64,draws=4,"
        "batch_size=256",
        "map:steps=500,weight=null,lr=0.05,start=linear,high=200,low=30,epochs=100,width=64,batch_size=64,"
        "start_epochs=50,draws=4,tuning=16",
        "diffusion:steps=250,samples=8,guidance=null,start=linear,level=500,epochs=100,width=64,batch_size=64,"
        "start_epochs=50,draws=4,tuning=16",
        "confidence:epochs=50,network=dense_normN2C64,lr=0.001,weight_decay=0.0001,batch_size=256",
    ),
    # The shortest, for tutorials and for trying a pipeline: no evidence (`suites.hasty`).
    "smoke-v1": specs(
        "linear:looks=2",
        "nearest:neighbors=1,looks=2",
        "decoder:epochs=10,network=conv_normN0C16,lr=0.003,weight_decay=0.0001,batch_size=32",
    ),
    "quick-v1": specs(
        "linear:looks=4",
        "nearest:neighbors=1,looks=8",
        "decoder:epochs=20,network=conv_normN1C32,lr=0.003,weight_decay=0.0001,batch_size=128",
        "rmle:steps=200,tv=null,l2=null,lr=0.02,restarts=1,start=linear,center=start,draws=2,tuning=8,epochs=50",
        "map:steps=100,weight=null,lr=0.05,start=linear,high=200,low=30,epochs=8,width=16,batch_size=64,"
        "start_epochs=50,draws=1,tuning=8",
    ),
    # The decoders train until their held-out error no longer falls. `gan`, `diffusion` and `refine` begin with the
    # first of them: one training serves all four.
    "standard-v2": specs(
        "linear:looks=8",
        "nearest:neighbors=1,looks=16",
        "decoder:epochs=50,network=res_normN8C64,lr=0.001,weight_decay=0.0001,batch_size=256,steps=20000,patience=800",
        "decoder:epochs=50,network=unet_normN1C32,lr=0.001,weight_decay=0.0001,batch_size=256,steps=20000,patience=800",
        "decoder:epochs=50,network=conv_normN2C64,lr=0.001,weight_decay=0.0001,batch_size=256,steps=20000,patience=800",
        "refine:steps=150,weight=null,start=decoder,epochs=50,network=res_normN8C64,lr=0.001,weight_decay=0.0001,"
        "batch_size=256,draws=16,tuning=16,start_steps=20000,patience=800",
        "gan:epochs=50,warm_epochs=50,network=res_normN8C64,mse_weight=1500.0,penalty=10.0,critic_steps=1,"
        "lr=0.0001,width=64,batch_size=256,weight_decay=0.0001,critic=plain,critic_lr=null,cosine=null,"
        "evaluation=false,warm_batch_size=null,steps=4000,warm_steps=20000,patience=800",
        "rmle:steps=2000,tv=null,l2=null,lr=0.01,restarts=2,start=mean,center=start,draws=4,tuning=16,epochs=50",
        "latent:epochs=50,steps=1000,size=128,samples=1024,l2=0.01,lr=0.03,network=dense_normN2C64,draws=4,"
        "batch_size=256",
        "map:steps=500,weight=null,lr=0.05,start=linear,high=200,low=30,epochs=100,width=64,batch_size=64,"
        "start_epochs=50,draws=4,tuning=16",
        "diffusion:steps=250,samples=8,guidance=null,start=decoder,level=500,epochs=100,width=64,batch_size=64,"
        "start_epochs=50,draws=4,tuning=16,start_steps=20000,patience=800",
        "confidence:epochs=50,network=dense_normN2C64,lr=0.001,weight_decay=0.0001,batch_size=256",
    ),
    "quick-v2": specs(
        "linear:looks=4",
        "nearest:neighbors=1,looks=8",
        "decoder:epochs=20,network=conv_normN1C32,lr=0.003,weight_decay=0.0001,batch_size=128,steps=2500,patience=200",
        "refine:steps=100,weight=null,start=decoder,epochs=20,network=conv_normN1C32,lr=0.003,weight_decay=0.0001,"
        "batch_size=128,draws=4,tuning=16,start_steps=2500,patience=200",
    ),
}
# The third version makes the attacks of the second and tells the linkage beside them, so that errors of both compare.
SUITES |= {"standard-v3": SUITES["standard-v2"], "quick-v3": SUITES["quick-v2"]}
# The fourth version adds `residual`, so that attacks of an earlier version are read back and only this one is made.
SUITES |= {
    "standard-v4": SUITES["standard-v3"]
    + specs("residual:epochs=30,channels=96,lr=0.02,batch_size=64,shift=0.0625,flip=null"),
    "quick-v4": SUITES["quick-v3"]
    + specs("residual:epochs=10,channels=96,lr=0.02,batch_size=64,shift=0.0625,flip=null"),
}
LINKED = ("standard-v3", "quick-v3", "standard-v4", "quick-v4")
"""Suites that tell how often the right photo is found among the attacked images."""
SUPERSEDED = {f"{kind}-v{version}": f"{kind}-v4" for kind in ("quick", "standard") for version in (1, 2, 3)}
"""Suites that are kept for their figures, with the stronger ones that took their place."""
HASTY = ("smoke-v1",)
"""Suites that only show that everything runs."""
PRESETS: dict[str, Spec] = {
    "published/decoder": Spec.model_validate(
        "decoder:epochs=50,network=res_normN8C64,lr=0.001,weight_decay=0.0001,batch_size=256"
    ),
    # On TinyImageNet the published code refines for 80 epochs.
    "published/gan": Spec.model_validate(
        "gan:epochs=150,warm_epochs=50,network=res_normN8C64,mse_weight=1500.0,penalty=10.0,critic_steps=10,"
        "lr=0.0005,width=64,batch_size=128,weight_decay=0.0001,critic=published,critic_lr=0.005,cosine=300,"
        "evaluation=true,warm_batch_size=256"
    ),
    # Network, epochs and rate are the defaults of ResSFL's attack script (Li et al. 2022); the rest is ours.
    "ressfl/decoder": Spec.model_validate(
        "decoder:epochs=50,network=custom_released,lr=0.001,weight_decay=0.0001,batch_size=256"
    ),
    "he2019/rmle": Spec.model_validate(
        "rmle:steps=5000,tv=null,l2=null,lr=0.01,restarts=1,start=grey,center=zero,draws=4,tuning=16,epochs=50"
    ),
}


def superseded(name: str) -> str:
    """Return what is to be said of a suite that a stronger one has replaced; an empty text for others.

    >>> superseded("quick-v1"), superseded("quick-v4")
    ('quick-v1 is kept for its earlier figures; quick-v4 attacks better', '')
    """
    later = SUPERSEDED.get(name)
    return f"{name} is kept for its earlier figures; {later} attacks better" if later else ""


def hasty(name: str) -> list[str]:
    """Return the flag of a suite whose attacks are too short to believe; none for others.

    Args:
        name: name of the suite.

    >>> hasty("quick-v4"), len(hasty("smoke-v1"))
    ([], 1)
    """
    if name not in HASTY:
        return []
    return [f"the attacks of {name} are short, and only show that everything runs: attack with quick-v4"]
