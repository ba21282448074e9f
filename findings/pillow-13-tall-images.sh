#!/bin/sh
# Pillow 13 scales tall pictures to other pixels than Pillow 12 does: the two passes of a resize have changed places.
#
# Image.resize scales one axis after the other and rounds to whole gray levels in between, so the order shows. Pillow 12
# begins with the width, whatever the picture; Pillow 13 begins with the height where that shrinks by far more pixels. Wide
# pictures stay as they were. A network is trained on resized pictures and served on resized pictures: where the two
# sides have different versions, pixels differ, and digests of decoded image sets do not fit any more.
#
# Input: a picture of random gray levels, 200 pixels wide and 640 high, and one of 640 by 200, to 32 by 32, bilinear.
#
# Seen with Python 3.11:
#   200 wide, 640 high: 82 of 1,024 pixels differ, by at most 1 gray level
#   640 wide, 200 high: 0 of 1,024 pixels differ
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 12.0.0 13.0.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install -q pillow==$version numpy==2.4.6
done
cd "$folder"
cat > resize.py <<'END'
import sys

import numpy as np
from PIL import Image

rng = np.random.default_rng(0)
for name, shape in (("tall", (640, 200)), ("wide", (200, 640))):
    picture = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
    np.save(f"{name}-{sys.argv[1]}.npy", np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR)))
END
for version in 12.0.0 13.0.0; do "$folder/$version/bin/python" resize.py $version; done
"$folder/13.0.0/bin/python" - <<'END'
import sys

import numpy as np

found = {}
for name, text in (("tall", "200 wide, 640 high"), ("wide", "640 wide, 200 high")):
    before, after = (np.load(f"{name}-{version}.npy").astype(int) for version in ("12.0.0", "13.0.0"))
    differ, most = int((before != after).sum()), int(abs(before - after).max())
    found[name] = differ, most
    print(f"{text}: {differ} of {before.size:,} pixels differ" + (f", by at most {most} gray level" if differ else ""))
sys.exit(0 if found["tall"][0] > 0 and found["wide"][0] == 0 else "the versions now agree, or wide pictures differ too")
END
