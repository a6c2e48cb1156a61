# GPU sources as host C++, run by the emulator in tests/cuda_host: no CUDA and no GPU, only a C++ compiler.
#
#   coldstream_cuda_host_library(<name> <sources>...)   from .cu and .cpp files, two static libraries:
#       <name>       with the emulator; under ASan+UBSan where the whole tree is (SANITIZE=address,undefined)
#       <name>_race  with the emulator's race check; not made with SANITIZE, since ASan excludes it
#   coldstream_cuda_host_program(<name> <sources>...)   likewise two programs
#
# CUDA_HOST says whether they are there: not under sanitizers that fibers cannot live with, nor without a C++ compiler.
include(CheckLanguage)
set(CUDA_HOST OFF)
if(NOT SANITIZE MATCHES "thread|fuzzer")
  check_language(CXX)
  if(CMAKE_CXX_COMPILER)
    enable_language(CXX)
    set(CUDA_HOST ON)
  else()
    message(STATUS "no C++ compiler: the GPU kernels are not tested")
  endif()
endif()
if(NOT CUDA_HOST)
  return()
endif()

set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")
if(SANITIZE)
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1")
endif()

# The sources call __tsan_* for each access; race.cpp answers, and the thread sanitizer's own library is not linked.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(race_compile --param tsan-instrument-func-entry-exit=0)
else()
  set(race_compile -mllvm -tsan-instrument-func-entry-exit=0)
endif()
list(APPEND race_compile -fsanitize=thread,alignment,bounds -fno-sanitize-recover=alignment,bounds)

file(GLOB emulator CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/cuda_host/*.cpp)
list(FILTER emulator EXCLUDE REGEX "/(race|race_none|test_[a-z]+)\\.cpp$")
add_library(cuda_host STATIC ${emulator} ${CMAKE_SOURCE_DIR}/tests/cuda_host/race_none.cpp)
if(NOT SANITIZE)
  add_library(cuda_host_race STATIC ${emulator} ${CMAKE_SOURCE_DIR}/tests/cuda_host/race.cpp)
  target_link_options(cuda_host_race INTERFACE -fsanitize=alignment,bounds)
endif()

# One target of each build that is there; `what` is library or program.
function(cuda_host_targets what name)
  foreach(source ${ARGN})
    if(source MATCHES "\\.cu$") # what nvcc takes without a word
      set_source_files_properties(${source} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++;-fno-strict-aliasing;-Wno-unknown-pragmas;-Wno-shadow;-Wno-missing-field-initializers")
    endif()
  endforeach()
  foreach(flavour "" "_race")
    if(NOT TARGET cuda_host${flavour})
      continue()
    endif()
    if(what STREQUAL "library")
      add_library(${name}${flavour} STATIC ${ARGN})
    else()
      add_executable(${name}${flavour} ${ARGN})
    endif()
    target_link_libraries(${name}${flavour} PUBLIC cuda_host${flavour})
    if(flavour)
      target_compile_options(${name}${flavour} PRIVATE ${race_compile})
    endif()
  endforeach()
endfunction()

function(coldstream_cuda_host_library name)
  cuda_host_targets(library ${name} ${ARGN})
endfunction()

function(coldstream_cuda_host_program name)
  cuda_host_targets(program ${name} ${ARGN})
endfunction()
