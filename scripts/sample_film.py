"""Makes a film of the sample's scenes, each seen for three seconds, to try `clipcap film` on.

    python scripts/sample_film.py beach.mp4 --scenes 5
"""

from __future__ import annotations

import argparse

import av

from clipcap.dataset.scenes import render, scene

SEED, RATE, SECONDS, EDGE = 1, 25, 3, 320  # no scene of the sample's own, whose seed is 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film")
    parser.add_argument("--scenes", type=int, default=5)
    asked = parser.parse_args()
    with av.open(asked.film, "w") as container:
        video = container.add_stream("libx264", rate=RATE)
        video.width = video.height = EDGE
        video.pix_fmt = "yuv420p"
        for number in range(asked.scenes):
            picture = render(scene(9_000 + number, seed=SEED)).resize((EDGE, EDGE))
            for _ in range(RATE * SECONDS):
                container.mux(video.encode(av.VideoFrame.from_image(picture)))
        container.mux(video.encode(None))


if __name__ == "__main__":
    main()
