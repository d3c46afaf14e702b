# sluice_library(NAME deps...): the library sluice_NAME of this folder's *.cc, and the test program
# sluice_NAME_test of its *_test.cc. Subfolders are included.
function(sluice_library name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS *.cc)
  set(tests ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  if(sources)
    add_library(sluice_${name} STATIC ${sources})
    target_link_libraries(sluice_${name} PUBLIC sluice_compile_options ${ARGN})
  else()
    add_library(sluice_${name} INTERFACE)
    target_link_libraries(sluice_${name} INTERFACE sluice_compile_options ${ARGN})
  endif()
  if(SLUICE_BUILD_TESTS AND tests)
    add_executable(sluice_${name}_test ${tests})
    target_link_libraries(sluice_${name}_test PRIVATE sluice_${name} GTest::gtest GTest::gmock GTest::gtest_main
      rapidcheck)
    gtest_discover_tests(sluice_${name}_test TEST_PREFIX ${name}. DISCOVERY_TIMEOUT 60
      PROPERTIES LABELS fast)
  endif()
endfunction()
