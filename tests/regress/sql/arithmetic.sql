-- Element-wise arithmetic, concatenation, normalisation, parts, bits.
\set SHOW_CONTEXT never

SELECT '[1,2,3]'::vector + '[4,5,6]', '[1,2,3]'::vector - '[4,5,6]', '[1,2,3]'::vector * '[4,5,6]';
SELECT '[1,2]'::vector || '[3]';
SELECT '[3e38]'::vector + '[3e38]';
\echo :SQLSTATE
SELECT '[-3e38]'::vector - '[3e38]';
\echo :SQLSTATE
SELECT '[1e37]'::vector * '[1e37]';
\echo :SQLSTATE
SELECT '[1e-37]'::vector * '[1e-37]';
\echo :SQLSTATE
-- zero by itself is no underflow, nor is a subnormal
SELECT '[0,1e-37,1e-20]'::vector * '[1e-37,0,1e-20]';
SELECT '[1,2]'::vector + '[3]';
\echo :SQLSTATE
SELECT '[1,2]'::vector - '[3]';
\echo :SQLSTATE
SELECT '[1,2]'::vector * '[3]';
\echo :SQLSTATE
SELECT vector_dims(array_fill(1, ARRAY[8000])::vector || array_fill(1, ARRAY[8000])::vector);
SELECT array_fill(1, ARRAY[8000])::vector || array_fill(1, ARRAY[8001])::vector;
\echo :SQLSTATE

SELECT l2_normalize('[3,4]'::vector), l2_normalize('[3,0]'::vector), l2_normalize('[0,0.1]'::vector);
SELECT l2_normalize('[0,0]'::vector), l2_normalize('[3e38]'::vector), l2_normalize('[1e-45]'::vector);

-- subvector counts from 1 and clips like substring
SELECT subvector('[1,2,3,4,5]'::vector, 1, 3), subvector('[1,2,3,4,5]'::vector, 3, 2);
SELECT subvector('[1,2,3,4,5]'::vector, -1, 3), subvector('[1,2,3,4,5]'::vector, 3, 9);
SELECT subvector('[1,2,3,4,5]'::vector, 5, 2147483647), subvector('[1,2,3,4,5]'::vector, -2147483647, 2147483647);
\echo :SQLSTATE
SELECT subvector('[1,2,3,4,5]'::vector, -2147483646, 2147483647);
\echo :SQLSTATE
SELECT subvector('[1,2,3,4,5]'::vector, -2147483645, 2147483647);
SELECT subvector('[1,2,3,4,5]'::vector, 1, 0);
\echo :SQLSTATE
SELECT subvector('[1,2,3,4,5]'::vector, 3, -1);
\echo :SQLSTATE
SELECT subvector('[1,2,3,4,5]'::vector, -1, 2);
\echo :SQLSTATE
SELECT subvector('[1,2,3,4,5]'::vector, 6, 1);
\echo :SQLSTATE
SELECT subvector('[1,2,3,4,5]'::vector, 2147483647, 2147483647);
\echo :SQLSTATE
SELECT subvector('[1,2,3,4,5]'::vector, -2147483648, 1);
\echo :SQLSTATE

-- one bit per element, set where it is positive, the first one highest
SELECT binary_quantize('[1,0,-1]'::vector), binary_quantize('[0,0.1,-0.2,-0.3,0.4,0.5,0.6,-0.7,0.8,-0.9,1]'::vector);
SELECT length(binary_quantize(array_fill(1, ARRAY[16000])::vector));
SELECT binary_quantize('[1,-0,1e-45]'::vector)::bit(3), binary_quantize('[-1]'::vector) = B'0';
SELECT binary_quantize('[1,0,2]'::vector)::bit(3) <> B'101', subvector('[1,2,3]'::vector, 1, 2)::vector(2);
-- the functions behind the operators
SELECT vector_add('[1,2]', '[3,4]'), vector_sub('[1,2]', '[3,4]'), vector_mul('[1,2]', '[3,4]'), vector_concat('[1,2]', '[3]');
