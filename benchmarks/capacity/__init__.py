"""How far it goes: what a volume costs on one core, and a million of them simulated with those figures."""
