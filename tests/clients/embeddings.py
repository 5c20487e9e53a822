"""Texts with embeddings for LangChain and LlamaIndex, whose quick starts take a model: here a table."""

from application import QUERIES, VECTORS, genre_of, year_of

TEXTS = [f"Track {row} of {genre_of(row)}" for row in range(len(VECTORS))]
METADATA = [{"row": row, "genre": genre_of(row), "year": year_of(row), "tags": [f"shelf {row % 7}"]}
            for row in range(len(VECTORS))]
QUESTIONS = [f"What is like sample {number}?" for number in range(len(QUERIES))]
_VECTOR_OF = {**dict(zip(TEXTS, VECTORS)), **dict(zip(QUESTIONS, QUERIES))}


def embedding_of(text: str) -> list[float]:
    return [float(value) for value in _VECTOR_OF[text]]
