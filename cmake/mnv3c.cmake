# mnv3c_add_library(<target> MODEL <name or file> [TARGET <core or platform>] [NAME <C identifier>]
#   [WEIGHTS <file>] [CALIBRATION <folder or .npy>] [PATH <path>] [INPUT int8|uint8|float32]
#   [OUTPUT_TYPE int16|int8|float32] [NORMALIZE <name> | MEAN <r,g,b> STD <r,g,b>] [WIDTH <multiplier>]
#   [RESOLUTION <pixels>] [CLASSES <n>] [SHAPE <HxW>] [SEED <n>] [MEMORY fast|small] [CAMERA <format>])
#
# Compiles a network when the project is built, and again when the model, the weights, the calibration
# data or mnv3c itself change. Makes a static library <target> to link; its header is <NAME>.h, where
# NAME is <target> unless given. File names are relative to the calling CMakeLists.txt.
#
# MNV3C_COMMAND is the command to run, a list. By default mnv3c from the checkout's .venv, else from
# PATH, else this checkout through the first Python.
include_guard(GLOBAL)
set(_MNV3C_ROOT "${CMAKE_CURRENT_LIST_DIR}/..")
cmake_path(NORMAL_PATH _MNV3C_ROOT)
set(_MNV3C_ROOT "${_MNV3C_ROOT}" CACHE INTERNAL "")

function(_mnv3c_find_command)
  if(MNV3C_COMMAND)
    return()
  endif()
  find_program(_MNV3C_PROGRAM mnv3c HINTS "${_MNV3C_ROOT}/.venv/bin" "${_MNV3C_ROOT}/.venv/Scripts"
    NO_CMAKE_FIND_ROOT_PATH)
  if(_MNV3C_PROGRAM)
    set(command "${_MNV3C_PROGRAM}")
  else()
    find_package(Python3 3.11 COMPONENTS Interpreter REQUIRED)
    set(command "${CMAKE_COMMAND}" -E env "PYTHONPATH=${_MNV3C_ROOT}" "${Python3_EXECUTABLE}" -m mnv3c)
  endif()
  set(MNV3C_COMMAND "${command}" CACHE STRING "The command that runs mnv3c")
endfunction()

# Runs mnv3c while configuring; its output goes to the variable `result`.
function(_mnv3c_ask result)
  execute_process(COMMAND ${MNV3C_COMMAND} ${ARGN}
    OUTPUT_VARIABLE text ERROR_VARIABLE message RESULT_VARIABLE code OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT code EQUAL 0)
    string(STRIP "${message}" message)
    message(FATAL_ERROR "mnv3c_add_library: ${message}")
  endif()
  set(${result} "${text}" PARENT_SCOPE)
endfunction()

# A file argument becomes absolute, unless it is no file there (a zoo name).
function(_mnv3c_absolute variable)
  if(${variable} AND NOT IS_ABSOLUTE "${${variable}}" AND EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${${variable}}")
    set(${variable} "${CMAKE_CURRENT_SOURCE_DIR}/${${variable}}" PARENT_SCOPE)
  endif()
endfunction()

function(mnv3c_add_library target)
  set(options WEIGHTS CALIBRATION PATH INPUT OUTPUT_TYPE NORMALIZE MEAN STD WIDTH RESOLUTION CLASSES SHAPE
    SEED MEMORY CAMERA)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "MODEL;TARGET;NAME;${options}" "")
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "mnv3c_add_library: unknown arguments: ${ARG_UNPARSED_ARGUMENTS}")
  elseif(NOT ARG_MODEL)
    message(FATAL_ERROR "mnv3c_add_library: MODEL is missing")
  endif()
  if(NOT ARG_TARGET)
    set(ARG_TARGET arm64)
  endif()
  if(NOT ARG_NAME)
    string(MAKE_C_IDENTIFIER "${target}" ARG_NAME)
  endif()
  foreach(file MODEL WEIGHTS CALIBRATION)
    _mnv3c_absolute(ARG_${file})
  endforeach()
  _mnv3c_find_command()

  set(folder "${CMAKE_CURRENT_BINARY_DIR}/${target}.mnv3c")
  set(arguments compile "${ARG_MODEL}" --target "${ARG_TARGET}" --name "${ARG_NAME}" -o "${folder}")
  foreach(option IN LISTS options)
    if(DEFINED ARG_${option})
      string(TOLOWER "--${option}" flag)
      string(REPLACE "_" "-" flag "${flag}")
      list(APPEND arguments "${flag}" "${ARG_${option}}")
    endif()
  endforeach()
  _mnv3c_ask(sources ${arguments} --list-sources)
  string(REPLACE "\n" ";" sources "${sources}")
  list(TRANSFORM sources PREPEND "${folder}/")
  # Which paths there are decides on the list above.
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${_MNV3C_ROOT}/mnv3c/paths/registry.py")

  add_custom_command(
    OUTPUT "${folder}/${ARG_NAME}.h" ${sources} "${folder}/manifest.json"
    COMMAND ${MNV3C_COMMAND} ${arguments} --depfile "${folder}.d"
    DEPFILE "${folder}.d"
    COMMENT "mnv3c: ${ARG_MODEL} for ${ARG_TARGET}"
    VERBATIM)
  add_library(${target} STATIC "${folder}/${ARG_NAME}.h" ${sources})
  target_include_directories(${target} PUBLIC "${folder}")
  set_target_properties(${target} PROPERTIES C_STANDARD 11 C_STANDARD_REQUIRED ON POSITION_INDEPENDENT_CODE ON
    MNV3C_DIRECTORY "${folder}")
  if(NOT MSVC)
    # Kernels without optimisation are hundreds of times slower: only a debug build has them so.
    target_compile_options(${target} PRIVATE $<$<NOT:$<CONFIG:Debug>>:-O3>)
  endif()
endfunction()
