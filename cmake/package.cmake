# The C++ interface (include/relkernels.hpp) over the engine, and what `cmake --install` puts under its prefix:
# library, header, and a package for find_package.

target_sources(
  relkernels_core
  PRIVATE csrc/embed/call.cpp
          csrc/embed/gradients.cpp
          csrc/embed/feature_maps.cpp
          csrc/embed/nngp.cpp
          csrc/embed/relational.cpp
          csrc/embed/relations.cpp
          csrc/embed/searches.cpp
          csrc/embed/loss.cpp
          csrc/embed/system.cpp)
set_source_files_properties(
  csrc/embed/system.cpp
  TARGET_DIRECTORY relkernels_core
  PROPERTIES COMPILE_DEFINITIONS RK_VERSION="${RELKERNELS_VERSION}")

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package "${CMAKE_INSTALL_LIBDIR}/cmake/relkernels")
set_target_properties(relkernels_core PROPERTIES EXPORT_NAME core)
install(
  TARGETS relkernels_core
  EXPORT relkernels-targets
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
  INCLUDES
  DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(FILES include/relkernels.hpp DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT relkernels-targets NAMESPACE relkernels:: DESTINATION "${package}")
configure_package_config_file(cmake/relkernels-config.cmake.in relkernels-config.cmake
                              INSTALL_DESTINATION "${package}")
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(relkernels-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/relkernels-config.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/relkernels-config-version.cmake" DESTINATION "${package}")
