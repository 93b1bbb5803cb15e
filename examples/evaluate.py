"""Evaluates the demo from Python and prints AP and throughput.

Run: python examples/evaluate.py
"""

from distributed_pose import evaluate, load_config


def main() -> None:
    config = load_config(overrides=["data.limit=8", "engine=inline", "devices=cpu"])
    report = evaluate(config, "runs/example")
    ap = report.ap["AP"] if report.ap else None
    print(f"AP {ap:.3f} on {report.num_images} images")
    print(f"{report.throughput.wall_images_per_s:.1f} images/s by wall clock")


if __name__ == "__main__":
    main()
