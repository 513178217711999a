"""General questions whose answers an edit must leave alone, for any model.

Knows questions only. What the patient answered before the edit is the reference, so a model
is measured against itself and never against a key.
"""

from __future__ import annotations

RETAIN_QUESTIONS: tuple[str, ...] = tuple(
    """What is the capital of France?
What is the capital of Japan?
Which city is the capital of Egypt?
What is the capital of Norway?
Tell me the capital of Peru.
What is the capital of Kenya?
On which continent is Nepal?
On which continent is Chile?
What continent is Ghana on?
Which continent does Poland belong to?
What is the chemical symbol of iron?
What is the chemical symbol of helium?
Which symbol stands for sodium?
What is the atomic number of oxygen?
What is the atomic number of carbon?
What is the opposite of hot?
What is the opposite of early?
Tell me the opposite of deep.
Which word is the opposite of cheap?
What is 3 times 4?
What is 7 times 6?
How much is 5 times 9?
What is a young dog called?
What do you call a baby cow?
What is a young owl called?
What is the capital of Cuba?
What is the capital of Vietnam?
What is the capital of Hungary?
What is the opposite of brave?
What is the atomic number of neon?
On which continent is Morocco?
What is 8 times 8?""".splitlines()
)
