-- The text form of vector: what goes in, what comes out, what is refused and how.
\set SHOW_CONTEXT never

-- white space is allowed around every token
SELECT '[1,2,3]'::vector;
SELECT ' [ 1,  2 ,    3  ] '::vector;
SELECT E'\t\n\r\x0b\f[\t1\n,\r2\x0b]\f'::vector;

-- elements are read as C's strtof reads them
SELECT '[1.,.5,+3,-4,1e2,1E-2]'::vector;
SELECT '[0x10,0x1p-1]'::vector;
-- and rounded to float4 once
SELECT '[1.000000059604644775390626]'::vector = ('[' || (1 + 2 ^ (-23)) || ']')::vector AS rounded_once;
SELECT '[16777217,0.1,3.4028235e38,1.17549435e-38,1e-45]'::vector;
-- underflow gives zero, with its sign
SELECT '[1e-46,-1e-46]'::vector;

-- output is Postgres's shortest float4, whatever extra_float_digits says
SELECT '[1e6,1234567,123456.7,1e5,0.0001,0.00001,-0,1.5]'::vector;
SET extra_float_digits = -3;
SELECT '[0.1234567,3.4028235e38]'::vector;
SELECT vector_out('[0.1234567]');
RESET extra_float_digits;
-- and reads back as the same value
SELECT count(*) AS lost
FROM (SELECT ('[' || (i * pi() * 10 ^ (i % 70 - 35)) || ']')::vector AS v FROM generate_series(1, 1000) i) t
WHERE v <> v::text::vector;

-- a literal that does not start with a bracket
SELECT ''::vector;
\echo :SQLSTATE
SELECT 'hello'::vector;
\echo :SQLSTATE
SELECT '1,2,3'::vector;
\echo :SQLSTATE
SELECT '{1,2}'::vector;
\echo :SQLSTATE

-- a literal that goes on after the end
SELECT '[1,2,3]x'::vector;
\echo :SQLSTATE
SELECT '[1]]'::vector;
\echo :SQLSTATE
SELECT '[1] [2]'::vector;
\echo :SQLSTATE

-- malformed or missing elements
SELECT '['::vector;
\echo :SQLSTATE
SELECT '[,'::vector;
\echo :SQLSTATE
SELECT '[1'::vector;
\echo :SQLSTATE
SELECT '[1,'::vector;
\echo :SQLSTATE
SELECT '[1,]'::vector;
\echo :SQLSTATE
SELECT '[1,,3]'::vector;
\echo :SQLSTATE
SELECT '[1a]'::vector;
\echo :SQLSTATE
SELECT '[1;2]'::vector;
\echo :SQLSTATE
SELECT '[1 2]'::vector;
\echo :SQLSTATE
SELECT '[1_000]'::vector;
\echo :SQLSTATE
SELECT '[[1,2]]'::vector;
\echo :SQLSTATE
SELECT '[é]'::vector;
\echo :SQLSTATE

-- no elements
SELECT '[]'::vector;
\echo :SQLSTATE
SELECT '[ ]'::vector;
\echo :SQLSTATE

-- elements that float4 cannot hold
SELECT '[4e38,1]'::vector;
\echo :SQLSTATE
SELECT '[1,-1e400]'::vector;
\echo :SQLSTATE

-- elements that are not numbers
SELECT '[NaN]'::vector;
\echo :SQLSTATE
SELECT '[1,Infinity]'::vector;
\echo :SQLSTATE
SELECT '[-inf,nonsense'::vector;
\echo :SQLSTATE

-- 16,000 elements are the most
SELECT vector_dims(('[' || repeat('1,', 15999) || '1]')::vector);
SELECT ('[' || repeat('1,', 16000) || '1]')::vector;
\echo :SQLSTATE
-- nothing after the 16,000th is read
SELECT ('[' || repeat('1,', 16000) || 'x')::vector;
\echo :SQLSTATE
