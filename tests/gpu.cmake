# Programs that use the GPU room: on a real device where the build has one. Such a test says 77 where it finds none.
if(WITH_CUDA)
  add_executable(test_gpu_device_cuda test_gpu_device.c gpu/launch_stub.cu)
  target_link_libraries(test_gpu_device_cuda cs_test_support)
  add_test(NAME test_gpu_device_cuda COMMAND test_gpu_device_cuda)
  set_tests_properties(test_gpu_device_cuda PROPERTIES TIMEOUT 300 SKIP_RETURN_CODE 77 LABELS gpu)
endif()
