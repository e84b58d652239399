"""Makes orders.csv from real orders: ``python -m examples.shop.generate``.

The orders are those of the CDNOW data set (Fader and Hardie, 2001): an online shop's customers of
1997, what they bought and paid. The PyPI package ``lifetimes`` 0.11.3 (MIT) ships it as fixed-width
text: customer, date, discs, dollars. The data set has no names, so these are invented.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import zipfile
from itertools import islice
from pathlib import Path

FILE = Path(__file__).with_name("orders.csv")
PACKAGE, MEMBER = "lifetimes==0.11.3", "lifetimes/datasets/CDNOW_master.txt"
NAMES = ["Åsa Lindqvist", "José Núñez", "Zoë Brontë", "Łukasz Żak", "Nguyễn An", "Søren Kjær",
         "Chloé Dubois", "Müge Şahin", "Οδυσσέας Παππάς", "李小龙", "Ada Lovelace", "Grace Hopper"]  # fmt: skip
ORDERS = 240


def real_orders() -> list[tuple[int, str, int, int]]:
    """Customer, date (YYYYMMDD), discs and cents of every order in the data set."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, PACKAGE],
            check=True,
        )
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            rows = (line.split() for line in wheel.read(MEMBER).decode().splitlines()[1:])
            return [(int(c), d, int(n), round(float(usd) * 100)) for c, d, n, usd in rows]


def main() -> None:
    """Write the file."""
    paid = (order for order in real_orders() if order[3] > 0)
    with FILE.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["order", "customer", "email", "item", "quantity", "cents", "declined"])
        for order, (customer, date, discs, cents) in enumerate(islice(paid, ORDERS), 1):
            # What its mail server and its webhook do follows from the number: see servers.py.
            email = f"customer{order}@shop.example"
            each, rest = divmod(cents, discs)
            item = f"Compact disc, {date[:4]}-{date[4:6]}-{date[6:]}"
            lines = [(discs, each)] if rest == 0 else [(1, each + rest), (discs - 1, each)]
            for quantity, price in lines:
                if quantity:
                    out.writerow([order, NAMES[customer % len(NAMES)], email, item, quantity,
                                  price, int(order % 13 == 0)])  # fmt: skip


if __name__ == "__main__":
    main()
