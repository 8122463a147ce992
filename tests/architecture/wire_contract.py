"""The wire contract with clients that already exist, as a table.

Never edited to make a test pass: a change here breaks programs that nobody can update. Fields are
`name number type`; types: s string, i int32, l int64, y bytes, b bool, d double, another word is a
message, `*` is repeated.
"""

from __future__ import annotations

# service -> method -> (request, response)
SERVICES = {
    "UserService": {
        "Login": ("LoginRequest", "LoginResponse"),
        "Register": ("RegisterRequest", "RegisterResponse"),
        "Transfer": ("TransferRequest", "TransferResponse"),
        "GetBalance": ("GetBalanceRequest", "GetBalanceResponse"),
    },
    "NodeManagerService": {
        "RegisterWorkerNode": ("RegisterWorkerNodeRequest", "StatusResponse"),
        "HealthCheck": ("HealthCheckRequest", "HealthCheckResponse"),
        "ReportStatus": ("ReportStatusRequest", "StatusResponse"),
        "GetNodeList": ("GetNodeListRequest", "GetNodeListResponse"),
    },
    "MasterNodeService": {
        "UploadTask": ("UploadTaskRequest", "UploadTaskResponse"),
        "PollTaskStatus": ("PollTaskStatusRequest", "PollTaskStatusResponse"),
        "StoreOutput": ("StoreOutputRequest", "StatusResponse"),
        "StoreResult": ("StoreResultRequest", "StatusResponse"),
        "GetTaskResult": ("GetTaskResultRequest", "GetTaskResultResponse"),
        "ReturnTaskResult": ("ReturnTaskResultRequest", "ReturnTaskResultResponse"),
        "TaskCompleted": ("TaskCompletedRequest", "StatusResponse"),
        "StoreLogs": ("StoreLogsRequest", "StatusResponse"),
        "GetTaskLogs": ("GetTaskLogsRequest", "GetTaskLogsResponse"),
        "GetAllTasks": ("GetAllTasksRequest", "GetAllTasksResponse"),
        "StopTask": ("StopTaskRequest", "StopTaskResponse"),
    },
    "WorkerNodeService": {
        "ExecuteTask": ("ExecuteTaskRequest", "ExecuteTaskResponse"),
        "ReportOutput": ("ReportOutputRequest", "StatusResponse"),
        "ReportRunningStatus": ("RunningStatusRequest", "RunningStatusResponse"),
        "StopTaskExecution": ("StopTaskExecutionRequest", "StopTaskExecutionResponse"),
    },
}

MESSAGES = {
    # UserService
    "LoginRequest": "username 1 s, password 2 s",
    "LoginResponse": "success 1 b, message 2 s, token 3 s",
    "RegisterRequest": "username 1 s, password 2 s",
    "RegisterResponse": "success 1 b, message 2 s",
    "TransferRequest": "token 1 s, receiver_username 2 s, amount 3 l",
    "TransferResponse": "success 1 b, message 2 s",
    "GetBalanceRequest": "username 1 s, token 2 s",
    "GetBalanceResponse": "success 1 b, message 2 s, balance 3 l",
    # NodeManagerService
    "RegisterWorkerNodeRequest": "node_id 1 s, hostname 2 s, cpu_cores 3 i, memory_gb 4 i, cpu_score 5 i, "
    "gpu_score 6 i, gpu_memory_gb 7 i, location 8 s, port 9 i, gpu_name 12 s, docker_status 13 s",
    "StatusResponse": "success 1 b, message 2 s",
    "HealthCheckRequest": "",
    "HealthCheckResponse": "healthy 1 b, message 2 s",
    "ReportStatusRequest": "node_id 1 s, status_message 2 s",
    "GetNodeListRequest": "",
    "GetNodeListResponse": "success 1 b, message 2 s, nodes 3 *WorkerNodeInfo",
    "WorkerNodeInfo": "node_id 1 s, hostname 2 s, cpu_cores 3 i, memory_gb 4 i, status 5 s, "
    "last_heartbeat 6 d, cpu_score 7 i, gpu_score 8 i, gpu_memory_gb 9 i, location 10 s, port 11 i, "
    "gpu_name 12 s",
    # MasterNodeService
    "UploadTaskRequest": "task_id 1 s, task_zip 2 y, memory_gb 3 i, cpu_score 4 i, gpu_score 5 i, "
    "gpu_memory_gb 6 i, location 7 s, gpu_name 8 s, user_id 9 s",
    "UploadTaskResponse": "success 1 b, message 2 s",
    "PollTaskStatusRequest": "task_id 1 s",
    "PollTaskStatusResponse": "task_id 1 s, status 2 s, output 3 *s, message 4 s",
    "StoreOutputRequest": "task_id 1 s, output 2 s",
    "StoreResultRequest": "task_id 1 s, result_zip 2 y",
    "GetTaskResultRequest": "task_id 1 s, token 2 s",
    "GetTaskResultResponse": "success 1 b, message 2 s, result_zip 3 y",
    "ReturnTaskResultRequest": "task_id 1 s, result_zip 2 y",
    "ReturnTaskResultResponse": "success 1 b, message 2 s",
    "TaskCompletedRequest": "task_id 1 s, node_id 2 s, success 3 b",
    "StoreLogsRequest": "node_id 1 s, task_id 2 s, logs 3 s, timestamp 4 l",
    "GetTaskLogsRequest": "task_id 1 s, token 2 s",
    "GetTaskLogsResponse": "success 1 b, message 2 s, logs 3 s",
    "GetAllTasksRequest": "token 1 s",
    "GetAllTasksResponse": "success 1 b, message 2 s, tasks 3 *TaskStatus",
    "StopTaskRequest": "task_id 1 s, token 2 s",
    "StopTaskResponse": "success 1 b, message 2 s",
    "TaskStatus": "task_id 1 s, status 2 s, created_at 3 s, updated_at 4 s, assigned_node 5 s",
    # WorkerNodeService
    "ExecuteTaskRequest": "node_id 1 s, task_id 2 s, task_zip 3 y, cpu 4 i, gpu 5 i, memory_gb 6 i, "
    "gpu_memory_gb 7 i",
    "ExecuteTaskResponse": "success 1 b, message 2 s, result 3 y",
    "ReportOutputRequest": "node_id 1 s, task_id 2 s, output 3 s",
    "RunningStatusRequest": "node_id 1 s, task_id 2 s, cpu_usage 3 i, memory_usage 4 i, gpu_usage 5 i, "
    "gpu_memory_usage 6 i",
    "RunningStatusResponse": "success 1 b, message 2 s, cpt_reward 3 l",
    "StopTaskExecutionRequest": "task_id 1 s",
    "StopTaskExecutionResponse": "success 1 b, message 2 s",
}
