#!/usr/bin/env bash
# Runs the launch file with the real ros2 launch, param, lifecycle, topic and node, where they exist:
#     source /opt/ros/jazzy/setup.bash        # and the workspace's install/setup.bash after colcon build
#     test/ros2/check.sh
# Exit status: 0 all held, 1 something did not, 77 there is no ros2 command. Needs a minute; no GPU.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v ros2 >/dev/null || { echo "there is no ros2 command here; source a ROS 2 installation"; exit 77; }

export ROS_DOMAIN_ID="${ROS_DOMAIN_ID:-77}" ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST PYTHONUNBUFFERED=1
work=$(mktemp -d)
launched=
finish() {
    [ -z "$launched" ] || kill -INT -- "-$launched" 2>/dev/null || true
    ros2 daemon stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT

fail() {
    echo "FAILED: $1"
    sed 's/^/    /' "$work/log"
    exit 1
}

# until SECONDS WHAT COMMAND...: the command's output, once it holds the pattern WHAT
until_said() {
    local pattern=$1 said
    shift
    for _ in $(seq 60); do
        if said=$("$@" 2>&1) && grep -qE "$pattern" <<<"$said"; then
            echo "ok: $* says $pattern"
            return
        fi
        sleep 0.5
    done
    fail "$* did not say $pattern, but: $said"
}

# start LAUNCH ARGUMENTS...: one of ours by its name, or any launch file by its path
start() {
    local file="$PWD/launch/$1.launch.py"
    [ ! -f "$1" ] || file=$1
    # a process group of its own, which Ctrl-C reaches as a terminal would send it
    setsid ros2 launch "$file" "${@:2}" >"$work/log" 2>&1 &
    launched=$!
}

interrupt() {
    local begin=$(date +%s%N)
    kill -INT -- "-$launched"
    wait "$launched" && status=0 || status=$?
    launched=
    echo "ok: Ctrl-C ended the launch in $((($(date +%s%N) - begin) / 1000000)) ms, exit status $status"
    ! grep -q Traceback "$work/log" || fail "a traceback was left"
    grep -q "process has finished cleanly" "$work/log" || fail "the node did not end cleanly"
}

# ends STATUS PATTERN LAUNCH ARGUMENTS...: a launch that ends by itself, with this status, saying this, in order
ends() {
    local expected=$1 pattern=$2
    start "${@:3}"
    wait "$launched" && status=0 || status=$?
    launched=
    [ "$status" = "$expected" ] || fail "the launch of ${*:3} ended with exit status $status, not $expected"
    grep -qE "$pattern" "$work/log" || fail "the launch of ${*:3} did not say $pattern"
    ! grep -q Traceback "$work/log" || fail "a traceback was left"
    echo "ok: the launch of ${*:3} ended with exit status $status"
}

ros2 launch "$PWD/launch/derain.launch.py" --show-args >"$work/log"
for argument in cameras backend segmentation params_file remap log_level; do
    grep -q "'$argument'" "$work/log" || fail "--show-args does not name $argument"
done
echo "ok: --show-args names the arguments"

start derain cameras:=front,rear segmentation:=true "cache_dir:=$work/cache" threads:=1 \
    diagnostics.max_latency_ms:=75 remap:=front/image_raw:=/sensors/front namespace:=car log_level:=info
until_said '^active' ros2 lifecycle get /car/derain
until_said 'Integer value is: 1$' ros2 param get /car/derain threads
until_said 'Double value is: 75.0' ros2 param get /car/derain diagnostics.max_latency_ms
until_said "front.*rear" ros2 param get /car/derain cameras
until_said 'Boolean value is: True' ros2 param get /car/derain segmentation
until_said 'Set parameter successful' ros2 param set /car/derain diagnostics.max_latency_ms 80.0
if ros2 param set /car/derain threads 4 2>&1 | grep -q 'Set parameter successful'; then
    fail "a parameter that cannot change while active was changed"
fi
echo "ok: a parameter that cannot change while active is refused"
until_said '/sensors/front' ros2 topic list
until_said '/car/rear/derained/image' ros2 topic list
until_said '/car/front/segmentation/mask' ros2 topic list
until_said 'DiagnosticArray|runtime' ros2 topic echo --once /diagnostics
ros2 lifecycle set /car/derain deactivate >/dev/null || fail "it could not be deactivated"
until_said '^inactive' ros2 lifecycle get /car/derain
ros2 lifecycle set /car/derain activate >/dev/null || fail "it could not be activated again"
until_said '^active' ros2 lifecycle get /car/derain
interrupt

ends 1 "Valid options are: .*'openvino'" derain backend:=vulkan
ends 0 "built engine for 96x64" derain build_only:=true image_sizes:=96x64 "cache_dir:=$work/cache" threads:=1
ends 1 "the node ended with exit status 1; its log is above" derain build_only:=true
echo "/**: {ros__parameters: {build_only: true, segmentation: true}}" >"$work/derain.yaml"
ends 1 "the node ended with exit status 1; its log is above" derain "params_file:=$work/derain.yaml"
ends 1 "respawn:=true and build_only: true of .* contradict" derain "params_file:=$work/derain.yaml" respawn:=true

start derain required:=true "cache_dir:=$work/cache" cameras:=lost
until_said '^active' ros2 lifecycle get /derain
pkill -SEGV -g "$launched" -f "rain_removal_ros.ros.main|derain_node"
wait "$launched" && status=0 || status=$?
launched=
[ "$status" = 1 ] || fail "the launch of a required node that crashed ended with exit status $status"
grep -q "the node ended by signal 11" "$work/log" || fail "it was not said that the node crashed"
echo "ok: the launch of a required node that crashed ended with exit status 1"

start derain "params_file:=$PWD/config/derain.yaml" "cache_dir:=$work/cache" cameras:=side
until_said '^active' ros2 lifecycle get /derain
until_said "side" ros2 param get /derain cameras
interrupt

"${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/}python3" - "$work/drive" <<'END' || fail "no bag could be written; the environment needs rosbags (docs/bags.md)"
import sys
from pathlib import Path

sys.path.insert(0, "test")
from bag_fixtures import drive, record

record(Path(sys.argv[1]), drive(8))
END
ends 1 "the replay ended with exit status 1; its log is above" replay "bag:=$work/drive" start:=600 \
    "cache_dir:=$work/cache" threads:=1
ends 0 "8 derained came back" replay "bag:=$work/drive" every:=true "record:=$work/derained" \
    "params_file:=$work/derain.yaml" "cache_dir:=$work/cache" threads:=1
"${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/}python3" - "$work/derained" <<'END' || fail "the replay did not record an image and a mask for every image"
import sys
from pathlib import Path

from rosbags.highlevel import AnyReader

with AnyReader([Path(sys.argv[1])]) as bag:
    counts = [bag.topics[f"/front/{output}"].msgcount for output in ("derained/image", "segmentation/mask")]
sys.exit(counts != [8, 8])
END
echo "ok: a bag was replayed to its end, and every image came back"
start replay "bag:=$work/drive" loop:=true "record:=$work/loops" "cache_dir:=$work/cache" threads:=1
until_said 'sec:' ros2 topic echo --once /front/derained/camera_info
interrupt
[ "$status" = 0 ] || fail "an interrupted replay ended with exit status $status"
grep -q "derained came back" "$work/log" || fail "the interrupted replay did not end as it should"

cat >"$work/car.launch.py" <<END
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace

ARGUMENTS = {"bag": "$work/drive", "loop": "true", "cache_dir": "$work/cache", "threads": "1"}
REPLAY = IncludeLaunchDescription(
    PythonLaunchDescriptionSource("$PWD/launch/replay.launch.py"), launch_arguments=ARGUMENTS.items()
)


def generate_launch_description():
    return LaunchDescription([GroupAction([PushRosNamespace("car"), REPLAY])])
END
start "$work/car.launch.py"
until_said '^active' ros2 lifecycle get /car/derain
until_said 'sec:' ros2 topic echo --once /car/front/derained/camera_info
until_said '^/front/image_raw' ros2 topic list
interrupt
echo "all held"
