"""Federations without rounds: clients come and go on a virtual clock (FedBuff, FedAsync)."""
