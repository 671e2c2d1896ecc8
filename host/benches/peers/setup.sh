#!/bin/sh
# Makes what the comparison with Celery needs in a directory: an environment for each of its versions, and one with the local SQS.
set -eu

to=$1
make() {
    name=$1
    shift
    if [ ! -e "$to/$name/made" ]; then
        "${PYTHON:-python3}" -m venv "$to/$name"
        "$to/$name/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
        : >"$to/$name/made"
    fi
}
mkdir -p "$to"
# With the kombu of its time: the throttle of 5.7 would hold it up as well.
make 5.6.3 "celery[sqs]==5.6.3" "kombu>=5.6,<5.7"
make 5.7.0 "celery[sqs]==5.7.0"
make ministack ministack==1.5.33 boto3==1.43.106
