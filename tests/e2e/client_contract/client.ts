async function runAgentAndWait(
  agentId: string,
  input: Record<string, any>,
  timeoutMs: number = 60000
): Promise<any> {
  // Start execution
  const startResponse = await fetch('http://127.0.0.1:8001/executions/run', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ agent_id: agentId, input })
  });

  const { execution_id } = await startResponse.json();

  // Poll for completion
  const startTime = Date.now();
  while (Date.now() - startTime < timeoutMs) {
    const statusResponse = await fetch(
      `http://127.0.0.1:8001/executions/${execution_id}`
    );
    const status = await statusResponse.json();

    if (status.status === 'COMPLETED') {
      return status.final_result;
    }

    if (status.status === 'FAILED') {
      throw new Error(status.error_log || 'Execution failed');
    }

    if (status.status === 'CANCELED') {
      throw new Error('Execution was canceled');
    }

    // Wait before polling again
    await new Promise(resolve => setTimeout(resolve, 1000));
  }

  throw new Error('Execution timed out');
}

// Usage
try {
  const result = await runAgentAndWait('agent-uuid', {
    question: 'What is the weather?'
  });
  console.log('Result:', result);
} catch (error) {
  console.error('Execution failed:', error);
}

class ExecutionManager {
  private activeExecutions: Map<string, AbortController> = new Map();

  async start(agentId: string, input: Record<string, any>): Promise<string> {
    const response = await fetch('http://127.0.0.1:8001/executions/run', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ agent_id: agentId, input })
    });

    const { execution_id } = await response.json();
    this.activeExecutions.set(execution_id, new AbortController());
    return execution_id;
  }

  async cancel(executionId: string): Promise<void> {
    await fetch(`http://127.0.0.1:8001/executions/${executionId}/cancel`, {
      method: 'POST'
    });
    this.activeExecutions.delete(executionId);
  }

  async cancelAll(): Promise<void> {
    const cancelPromises = Array.from(this.activeExecutions.keys()).map(id =>
      this.cancel(id)
    );
    await Promise.all(cancelPromises);
  }
}
