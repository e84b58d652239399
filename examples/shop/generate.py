"""Makes orders.csv: ``python -m examples.shop.generate``. The same file every time."""

from __future__ import annotations

import csv
import random
from pathlib import Path

FILE = Path(__file__).with_name("orders.csv")
NAMES = ["Åsa Lindqvist", "José Núñez", "Zoë Brontë", "Łukasz Żak", "Nguyễn An", "Søren Kjær",
         "Chloé Dubois", "Müge Şahin", "Οδυσσέας Παππάς", "李小龙", "Ada Lovelace", "Grace Hopper"]  # fmt: skip
GOODS = [("Teapot", 3400), ("Notebook", 450), ("Fountain pen", 2890), ("Ink, blue", 790),
         ("Desk lamp", 5990), ("Paper clips", 120), ("Chair", 14900)]  # fmt: skip
ORDERS = 240


def main() -> None:
    """Write the file."""
    rng = random.Random(2026)
    with FILE.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["order", "customer", "email", "item", "quantity", "cents", "declined"])
        for order in range(1, ORDERS + 1):
            customer = rng.choice(NAMES)
            # What its mail server and its webhook do follows from the number: see servers.py.
            email = f"customer{order}@shop.example"
            declined = int(order % 13 == 0)
            for item, cents in rng.sample(GOODS, rng.randint(1, 3)):
                out.writerow([order, customer, email, item, rng.randint(1, 4), cents, declined])


if __name__ == "__main__":
    main()
