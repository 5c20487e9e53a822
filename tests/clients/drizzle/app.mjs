// Guides and their search, as Drizzle's guide to pgvector has them, with node-postgres. Reads one command a line, such
// as {"search": "similar"}, and answers each with a line of JSON: for each query vector, the ids that the search finds.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { and, asc, cosineDistance, desc, eq, getTableColumns, gt, inArray, l2Distance, lt, sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import { halfvec, index, integer, pgTable, serial, text, vector } from 'drizzle-orm/pg-core';
import pg from 'pg';

const data = JSON.parse(readFileSync(process.argv[2]));
const { vectors, queries, genres, years, dimensions, similarityOver, radius } = data;

const guides = pgTable(
  'guides',
  {
    id: serial('id').primaryKey(),
    title: text('title').notNull(),
    genre: text('genre').notNull(),
    year: integer('year').notNull(),
    embedding: vector('embedding', { dimensions }),
    half: halfvec('half', { dimensions }),
  },
  (table) => [index('embeddingIndex').using('hnsw', table.embedding.op('vector_cosine_ops'))],
);

// One connection, so that it comes to its cached plans.
const pool = new pg.Pool({ max: 1 });
const db = drizzle({ client: pool });

async function load() {
  await db.execute(sql`CREATE EXTENSION IF NOT EXISTS vector`);
  await db.execute(sql.raw(`CREATE TABLE guides (id serial PRIMARY KEY, title text NOT NULL, genre text NOT NULL,
    year integer NOT NULL, embedding vector(${dimensions}), half halfvec(${dimensions}))`));
  for (let first = 0; first < vectors.length; first += 500) {
    await db.insert(guides).values(vectors.slice(first, first + 500).map((embedding, at) => ({
      id: first + at, title: `Guide ${first + at}`, genre: genres[first + at], year: years[first + at],
      embedding, half: embedding,
    })));
  }
}

const { embedding: _, half: __, ...columns } = getTableColumns(guides);
const similarityTo = (query) => sql`1 - (${cosineDistance(guides.embedding, query)})`;

const placed = db.select({ id: guides.id }).from(guides)
  .where(eq(guides.genre, sql.placeholder('genre')))
  .orderBy(sql`${guides.embedding} <=> ${sql.placeholder('query')}`)
  .limit(sql.placeholder('limit'))
  .prepare('nearest_of_a_genre');

const placedSimilarity = sql`1 - (${guides.embedding} <=> ${sql.placeholder('query')})`;
const placedSimilar = db.select({ id: guides.id, similarity: placedSimilarity }).from(guides)
  .where(gt(placedSimilarity, similarityOver))
  .orderBy((t) => desc(t.similarity)).limit(4)
  .prepare('similar_prepared');

const searches = {
  // The search of the guide.
  similar: (query) => {
    const similarity = similarityTo(query);
    return db.select({ id: guides.id, title: guides.title, similarity }).from(guides)
      .where(gt(similarity, similarityOver)).orderBy((t) => desc(t.similarity)).limit(4);
  },
  similar_of_a_genre: (query) => {
    const similarity = similarityTo(query);
    return db.select({ ...columns, similarity }).from(guides)
      .where(and(gt(similarity, similarityOver), eq(guides.genre, 'jazz')))
      .orderBy((t) => desc(t.similarity)).limit(4);
  },
  most_similar: (query) => {
    const similarity = similarityTo(query);
    return db.select({ id: guides.id, similarity }).from(guides).orderBy(desc(similarity)).limit(5);
  },
  nearest: (query) => db.select().from(guides).orderBy(cosineDistance(guides.embedding, query)).limit(5),
  second_page: (query) =>
    db.select().from(guides).orderBy(asc(cosineDistance(guides.embedding, query))).limit(10).offset(10),
  filtered: (query) =>
    db.select().from(guides).where(and(inArray(guides.genre, ['jazz', 'rock']), gt(guides.year, 1990)))
      .orderBy(l2Distance(guides.embedding, query)).limit(5),
  within_a_radius: (query) => {
    const distance = l2Distance(guides.embedding, query);
    return db.select({ id: guides.id }).from(guides).where(lt(distance, radius)).orderBy(distance).limit(20);
  },
  by_half_vectors: (query) => db.select().from(guides).orderBy(cosineDistance(guides.half, query)).limit(5),
  like_a_stored_row: () => {
    const row = db.select({ embedding: guides.embedding }).from(guides).where(eq(guides.id, 1));
    return db.select().from(guides).orderBy(l2Distance(guides.embedding, row)).limit(5);
  },
  nearest_then_by_id: (query) =>
    db.select().from(guides).orderBy(cosineDistance(guides.embedding, query), asc(guides.id)).limit(5),
  prepared_by_name: (query) => placed.execute({ query: JSON.stringify(query), genre: 'folk', limit: 5 }),
  similar_prepared_by_name: (query) => placedSimilar.execute({ query: JSON.stringify(query) }),
};

for await (const line of createInterface({ input: process.stdin })) {
  try {
    const { search } = JSON.parse(line);
    if (search === 'load') {
      await load();
      console.log('[]');
    } else {
      const found = [];
      for (const query of queries) found.push((await searches[search](query)).map((row) => row.id));
      console.log(JSON.stringify(found));
    }
  } catch (error) {
    console.log(JSON.stringify({ error: `${error} ${error.cause ?? ''}` }));
  }
}
await pool.end();
