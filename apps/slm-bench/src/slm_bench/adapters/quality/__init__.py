"""Quality: what each adapter method learns at equal parameter counts in equally many steps, and what it forgets."""
