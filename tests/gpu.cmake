# Programs that use the GPU room: on the emulated device, and on a real one where the build has it. A test without a device says 77.
#
#   link_gpu_host(target)   before the target's other libraries: the emulated device in place of the build's own
if(WITH_CUDA)
  add_subdirectory(gpu) # the .cu files by nvcc: objects <file>_cuda
endif()

add_executable(test_gpu_report test_gpu_report.c)
target_link_libraries(test_gpu_report cs_test_support)
target_compile_definitions(test_gpu_report PRIVATE REPORT="$<TARGET_FILE:gpu_report>")
add_dependencies(test_gpu_report gpu_report)
add_test(NAME test_gpu_report COMMAND test_gpu_report)
set_tests_properties(test_gpu_report PROPERTIES TIMEOUT 600 COST 20)

if(CUDA_HOST)
  function(link_gpu_host target)
    target_link_libraries(${target} cs_gpu_host)
    target_link_options(${target} PRIVATE -Wl,--undefined=gpu_open) # now, before the engine asks and gets the build's own
  endfunction()

  add_executable(coldstream_host ${CMAKE_SOURCE_DIR}/runtime/cli/main.c) # the program with --device host
  link_gpu_host(coldstream_host)
  target_link_libraries(coldstream_host cs_cli)
  target_compile_definitions(coldstream_host PRIVATE COLDSTREAM_COMMIT="emulated")

  foreach(name test_hybrid test_hybrid_dirs test_hybrid_exl3 test_hybrid_faults test_hybrid_moves test_hybrid_parts
               test_hybrid_start test_hybrid_defer)
    add_executable(${name} ${name}.c)
    link_gpu_host(${name})
    target_link_libraries(${name} cs_test_support)
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES TIMEOUT 600 COST 100)
    if(name STREQUAL test_hybrid_faults) # the device gets on only where it is asked: what is not waited for is seen
      set_tests_properties(${name} PROPERTIES ENVIRONMENT "CH_SCHED=1")
    endif()
    if(SANITIZE) # several times as slow
      target_compile_definitions(${name} PRIVATE BUDGET_STEPS=4)
    endif()
  endforeach()

  get_property(report_sources TARGET gpu_report PROPERTY REPORT_SOURCES)
  add_executable(gpu_report_host ${report_sources})
  link_gpu_host(gpu_report_host)
  target_link_libraries(gpu_report_host cs_engine)
  target_compile_definitions(gpu_report_host PRIVATE COLDSTREAM_COMMIT="emulated")
  add_dependencies(test_gpu_report gpu_report_host)
  target_compile_definitions(test_gpu_report PRIVATE REPORT_HOST="$<TARGET_FILE:gpu_report_host>")

  coldstream_cuda_host_library(gpu_launch_stub ${CMAKE_CURRENT_SOURCE_DIR}/gpu/launch_stub.cu)
  add_executable(test_gpu_device test_gpu_device.c $<TARGET_OBJECTS:gpu_launch_stub>) # its launches stand in for the room's
  link_gpu_host(test_gpu_device)
  target_link_libraries(test_gpu_device cs_test_support)
  target_compile_definitions(test_gpu_device PRIVATE GPU_EMULATED)
  foreach(schedule 0 1 2) # streams at once, lazily, at random
    add_test(NAME test_gpu_device_${schedule} COMMAND test_gpu_device)
    set_tests_properties(test_gpu_device_${schedule} PROPERTIES TIMEOUT 300
      ENVIRONMENT "CH_SCHED=${schedule};CH_ORDER=${schedule};CH_GUARD=1")
  endforeach()
endif()

# gpu_test(what probes...): test_gpu_<what>.c with .cu files that look inside, if any; on the emulated device, in another order of
# threads and streams under the race check, and on a real device where the build has one. Without a device it says 77.
function(gpu_test what)
  set(name test_gpu_${what})
  list(TRANSFORM ARGN PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/)
  if(CUDA_HOST)
    if(ARGN)
      coldstream_cuda_host_library(${name}_probe ${ARGN})
    endif()
    foreach(flavour "" _race)
      if(NOT TARGET cs_gpu_host${flavour})
        continue()
      endif()
      add_executable(${name}${flavour} ${name}.c)
      if(ARGN)
        target_link_libraries(${name}${flavour} ${name}_probe${flavour})
      endif()
      target_link_libraries(${name}${flavour} cs_gpu_host${flavour} cs_cpu PkgConfig::CMOCKA)
      set(order 2) # at random (1: descending and lazily; 0: ascending and at once)
      if(NOT flavour AND NOT SANITIZE)
        set(order 1) # the checked builds, this one's and the sanitized tree's, have the other
      endif()
      add_test(NAME ${name}${flavour}_${order} COMMAND ${name}${flavour})
      set_tests_properties(${name}${flavour}_${order} PROPERTIES TIMEOUT 900 COST 50 SKIP_RETURN_CODE 77
        ENVIRONMENT "CH_SCHED=${order};CH_ORDER=${order};CH_GUARD=1")
    endforeach()
  endif()
  if(WITH_CUDA)
    add_executable(${name}_cuda ${name}.c)
    foreach(source ${ARGN})
      get_filename_component(probe ${source} NAME_WE)
      target_sources(${name}_cuda PRIVATE $<TARGET_OBJECTS:${probe}_cuda>)
    endforeach()
    target_link_libraries(${name}_cuda cs_gpu cs_cpu PkgConfig::CMOCKA)
    add_test(NAME ${name}_cuda COMMAND ${name}_cuda)
    set_tests_properties(${name}_cuda PROPERTIES TIMEOUT 300 SKIP_RETURN_CODE 77 LABELS gpu)
  endif()
endfunction()
gpu_test(batch)
gpu_test(step gpu/step_probe.cu)
gpu_test(types gpu/step_probe.cu)
gpu_test(exl3 gpu/step_probe.cu gpu/exl3_probe.cu)
gpu_test(attention gpu/attention_rig.cu)

if(WITH_CUDA)
  foreach(name test_hybrid test_hybrid_dirs test_hybrid_exl3 test_hybrid_moves test_hybrid_parts test_hybrid_start test_hybrid_defer)
    add_executable(${name}_cuda ${name}.c)
    target_link_libraries(${name}_cuda cs_test_support)
    add_test(NAME ${name}_cuda COMMAND ${name}_cuda)
    set_tests_properties(${name}_cuda PROPERTIES TIMEOUT 600 SKIP_RETURN_CODE 77 LABELS gpu ENVIRONMENT "DEVICE=cuda")
  endforeach()
  add_executable(test_gpu_device_cuda test_gpu_device.c $<TARGET_OBJECTS:launch_stub_cuda>)
  target_link_libraries(test_gpu_device_cuda cs_test_support)
  add_test(NAME test_gpu_device_cuda COMMAND test_gpu_device_cuda)
  set_tests_properties(test_gpu_device_cuda PROPERTIES TIMEOUT 300 SKIP_RETURN_CODE 77 LABELS gpu)
endif()
