"""A small shop: the order, the receipt, the webhook and the invoice, in one transaction."""
