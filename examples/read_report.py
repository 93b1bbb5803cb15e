"""Prints the throughput of each device from a run's report.json.

Run: python examples/read_report.py runs/latest
"""

import json
import sys
from pathlib import Path


def main(folder: str) -> None:
    report = json.loads(Path(folder, "report.json").read_text())
    for device in report["devices"]:
        rate = device["compute_images_per_s"]
        print(f"{device['name']} {device['backend']} {device['precision']}: {rate:.1f} images/s")
    print(f"all together: {report['throughput']['wall_images_per_s']:.1f} images/s by wall clock")


if __name__ == "__main__":
    main(sys.argv[1])
