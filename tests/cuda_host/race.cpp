/* The race check: to come. */
#include "tests/cuda_host/race_none.cpp"
