# Toolchain file: compiles for 64-bit ARM under Linux with Debian's g++-aarch64-linux-gnu, and runs the programs
# in the emulator of qemu-user-static. Programs are static, so that the emulator needs no libraries of that system.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static)
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
# find_package also searches CMAKE_PREFIX_PATH, which is no system root.
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
